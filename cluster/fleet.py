"""What a decision reads and changes: replicas, the index of their blocks, and the load booked on them.

Everything here is synchronous: a decision and its booking happen between two awaits, and never wait for
Redis.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cluster.block_keys import Namespace
from cluster.peers import Outbox, PeerBookings
from cluster.prefix_index import DEFAULT_MAX_BLOCKS, Expectation, PrefixIndex
from cluster.wire import Booked, Lease, Load, ReplicaState
from policies.types import Snapshot

EXPECTATION_GRACE_SECONDS = 1.0
"""How long a finished request's blocks stay expected while the engine's events are on their way."""
MAX_HOMES = 100_000
"""Conversations whose last replica is remembered; those not continued for longest are forgotten."""


@dataclass(slots=True, eq=False)
class Replica:
    """One replica as this router sees it."""

    lease: Lease
    epoch: int
    slot: int
    load: Load = field(default_factory=Load)
    running: int = 0
    """Requests this router has booked here that have not ended."""
    queued_tokens: int = 0
    """Their uncached prompt tokens whose prefill has not finished."""
    failed_until: float = 0.0
    """Monotonic time in seconds before which this replica is left alone after a failed attempt."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that clients can name, and the replicas that serve it, ordered by id."""

    name: str
    lora: str
    """Name of the adapter, "" for the base model."""
    replicas: tuple[Replica, ...]
    ids: tuple[str, ...]
    namespace: Namespace | None
    """That of most replicas; None when no replica's cache can be seen."""
    max_model_len: int
    """Tokens; the smallest of its replicas that say so, 0 when none does."""

    def salted_namespace(self, cache_salt: str) -> Namespace:
        """The namespace of one tenant's blocks. Raises `ValueError` when the model has none."""
        if self.namespace is None:
            raise ValueError(f"no replica of {self.name} publishes its blocks")
        return replace(self.namespace, cache_salt=cache_salt)

    def row_of(self, replica: Replica | None) -> int:
        """Where a replica stands in `replicas`; -1 when it does not."""
        return next((row for row, other in enumerate(self.replicas) if other is replica), -1)

    @property
    def num_ready(self) -> int:
        """Replicas that take requests."""
        return sum(replica.lease.state is ReplicaState.READY for replica in self.replicas)

    @property
    def ready(self) -> bool:
        """Whether at least one replica takes requests."""
        return self.num_ready > 0


class Booking:
    """One request's load on one replica, from the decision until its stream has ended."""

    def __init__(self, fleet: "Fleet", replica: Replica, keys: Sequence[int], uncached_tokens: int) -> None:
        self.replica = replica
        self._fleet = fleet
        self._queued_tokens = uncached_tokens
        self._expectation = fleet.index.expect(replica.slot, keys)
        self._released = False
        replica.running += 1
        replica.queued_tokens += uncached_tokens
        fleet.outbox.booked(replica.lease.replica)

    def prefill_done(self) -> None:
        """The first token is there: the prompt no longer queues."""
        self.replica.queued_tokens -= self._queued_tokens
        self._queued_tokens = 0
        self._fleet.outbox.booked(self.replica.lease.replica)

    def release(self, now: float, succeeded: bool) -> None:
        """Give the load back; only the first call counts. ``now`` is a monotonic time in seconds."""
        if self._released:
            return
        self._released = True
        self.prefill_done()
        self.replica.running -= 1
        if succeeded:
            self._fleet.forget_later(self._expectation, now + EXPECTATION_GRACE_SECONDS)
        else:
            self._fleet.index.forget(self._expectation)
        self._fleet.open_bookings -= 1


class Fleet:
    """All replicas, by id, and the models they serve, by every name a client may use."""

    def __init__(self, max_blocks: int = DEFAULT_MAX_BLOCKS) -> None:
        self.index = PrefixIndex(max_blocks)
        self.replicas: dict[str, Replica] = {}
        self.models: dict[str, Model] = {}
        self.peers = PeerBookings()
        self.outbox = Outbox()
        self.store_reachable = True
        """Whether Redis answers; without it the last known state goes on serving."""
        self.open_bookings = 0
        self.decisions: Counter[str] = Counter()
        """How many requests have been booked for each base model."""
        self._homes: OrderedDict[int, Replica] = OrderedDict()
        self._leaving: deque[tuple[float, Expectation]] = deque()

    def admit(self, lease: Lease, epoch: int, load: Load) -> Replica:
        """Take in a replica's lease. A new epoch starts with nothing owned and nothing expected."""
        replica = self.replicas.get(lease.replica)
        if replica is None:
            replica = Replica(lease, epoch, self.index.add_replica())
            self.replicas[lease.replica] = replica
            self._sort_models()
        elif replica.epoch != epoch:
            self.index.remove_replica(replica.slot)
            replica.slot, replica.epoch, replica.failed_until = self.index.add_replica(), epoch, 0.0
        if lease != replica.lease:
            if lease.state is not replica.lease.state:
                replica.failed_until = 0.0
            replica.lease = lease
            self._sort_models()
        replica.load = load
        return replica

    def dismiss(self, replica_id: str) -> None:
        """Forget a replica. Requests still open on it keep their bookings until they end."""
        replica = self.replicas.pop(replica_id)
        self.index.remove_replica(replica.slot)
        self._sort_models()

    def apply(self, replica: Replica, stored: Collection[int], removed: Iterable[int], cleared: bool) -> None:
        """Apply one batch of a replica's ownership changes."""
        if cleared:
            self.index.clear(replica.slot)
        self.index.remove(replica.slot, removed)
        self.index.store(replica.slot, stored)

    def snapshot(
        self,
        model: Model,
        keys: Sequence[int],
        prompt_tokens: int,
        now: float,
        excluded: Collection[str] = (),
        conversation_key: int = 0,
        heed_failures: bool = True,
    ) -> Snapshot:
        """The replicas of a model as a policy sees them for one prompt, at a monotonic time in seconds.

        A ``conversation_key`` of 0 stands for an unknown conversation. Without ``heed_failures``, replicas
        that failed a moment ago are eligible all the same.
        """
        self._forget_until(now)
        self.peers.forget_silent(now)
        elsewhere = [self.peers[replica_id] for replica_id in model.ids]
        matched = self.index.matched_blocks(keys) if keys and model.namespace else {}
        block_size = model.namespace.block_size if model.namespace else 0
        # The engine always computes the last token of a prompt, and finds only full blocks in its cache.
        most = max(prompt_tokens - 1, 0) // block_size if block_size else 0
        cached = [
            block_size * min(matched.get(replica.slot, 0), most) if replica.lease.publishes_events else 0
            for replica in model.replicas
        ]
        return Snapshot(
            replicas=model.ids,
            eligible=np.array(
                [
                    replica.lease.state is ReplicaState.READY
                    and (replica.failed_until <= now or not heed_failures)
                    and replica.lease.replica not in excluded
                    for replica in model.replicas
                ],
                dtype=np.bool_,
            ),
            cached_tokens=np.array(cached, dtype=np.int64),
            queued_tokens=np.array(
                [
                    replica.queued_tokens + others.queued_tokens
                    for replica, others in zip(model.replicas, elsewhere, strict=True)
                ],
                dtype=np.int64,
            ),
            running=np.array(
                [
                    max(replica.running + others.running, replica.load.running + replica.load.waiting)
                    for replica, others in zip(model.replicas, elsewhere, strict=True)
                ],
                dtype=np.int64,
            ),
            home=model.row_of(self._homes.get(conversation_key)),
            number=self.decisions[model.replicas[0].lease.model],
        )

    def book(
        self, replica: Replica, keys: Sequence[int], uncached_tokens: int, conversation_key: int = 0
    ) -> Booking:
        """Book a request's load on the chosen replica, which becomes its conversation's home."""
        if conversation_key:
            self._homes[conversation_key] = replica
            self._homes.move_to_end(conversation_key)
        if len(self._homes) > MAX_HOMES:
            self._homes.popitem(last=False)
        self.decisions[replica.lease.model] += 1
        self.open_bookings += 1
        return Booking(self, replica, keys, uncached_tokens)

    def forget_later(self, expectation: Expectation, deadline: float) -> None:
        """Stop expecting these blocks at the given monotonic time, which never lies before an earlier one."""
        self._leaving.append((deadline, expectation))

    def odd_replicas(self) -> list[tuple[str, str]]:
        """Replicas whose blocks cannot be told from a prompt of their model, and why: their caches count as
        unknown.
        """
        odd = []
        for model in self.models.values():
            usual = model.namespace
            if usual is None or model.lora:
                continue
            for lease in (replica.lease for replica in model.replicas):
                if lease.model != model.name or not lease.publishes_events or lease.namespace() == usual:
                    continue
                reason = (
                    f"blocks of {lease.block_size} tokens, where most replicas have {usual.block_size}"
                    if lease.block_size != usual.block_size
                    else "another tokenizer than most replicas of its model"
                )
                odd.append((lease.replica, f"{reason}: its cache is not used"))
        return odd

    def booked(self, replica_id: str) -> Booked:
        """What this router itself has booked on a replica."""
        replica = self.replicas.get(replica_id)
        return Booked(replica.running, replica.queued_tokens) if replica else Booked()

    def check_integrity(self) -> None:
        """Bookings equal what is booked on replicas; the index equals the union of its replicas.

        Raises `AssertionError` otherwise. Bookings on replicas that have left are not in the sum.
        """
        booked = sum(replica.running for replica in self.replicas.values())
        if booked > self.open_bookings or any(
            r.running < 0 or r.queued_tokens < 0 for r in self.replicas.values()
        ):
            raise AssertionError(f"{booked} requests booked on replicas, {self.open_bookings} bookings open")
        self.index.check_integrity()
        self.peers.check_integrity()

    def _forget_until(self, now: float) -> None:
        while self._leaving and self._leaving[0][0] <= now:
            self.index.forget(self._leaving.popleft()[1])

    def _sort_models(self) -> None:
        names: dict[tuple[str, str], list[Replica]] = {}
        for replica in sorted(self.replicas.values(), key=lambda replica: replica.lease.replica):
            lease = replica.lease
            for name in {lease.model, *lease.aliases} - {""}:  # no name yet: its engine has not answered
                names.setdefault((name, ""), []).append(replica)
            for adapter in set(lease.adapters):
                names.setdefault((adapter, adapter), []).append(replica)
        self.models = {name: _model(name, lora, replicas) for (name, lora), replicas in names.items()}


def _model(name: str, lora: str, replicas: list[Replica]) -> Model:
    namespaces = Counter(
        replica.lease.namespace(lora)
        for replica in replicas
        if replica.lease.publishes_events and replica.lease.block_size
    )
    return Model(
        name=name,
        lora=lora,
        replicas=tuple(replicas),
        ids=tuple(replica.lease.replica for replica in replicas),
        namespace=namespaces.most_common(1)[0][0] if namespaces else None,
        max_model_len=min((r.lease.max_model_len for r in replicas if r.lease.max_model_len), default=0),
    )
