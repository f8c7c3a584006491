"""What a decision reads and changes: replicas, the index of their blocks, and the load booked on them.

Everything here is synchronous: a decision and its booking happen between two awaits, and never wait for
Redis.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from cluster.peer_expectations import PeerExpectations
from cluster.peers import Outbox, PeerBookings
from cluster.prefix_index import DEFAULT_MAX_BLOCKS, Expectation, PrefixIndex
from cluster.replicas import Model, Replica, models_of
from cluster.wire import Booked, Bookings, Lease, Load, ReplicaState
from policies.types import Snapshot

EXPECTATION_GRACE_SECONDS = 1.0
"""How long a finished request's blocks stay expected while the engine's events are on their way."""
MAX_HOMES = 100_000
"""Conversations whose last replica is remembered; those not continued for longest are forgotten."""


class Booking:
    """One request's load on one replica, from the decision until its stream has ended."""

    def __init__(
        self,
        fleet: "Fleet",
        replica: Replica,
        keys: Sequence[int],
        uncached_tokens: int,
        held_blocks: int,
    ) -> None:
        self.replica = replica
        self._fleet = fleet
        self._queued_tokens = uncached_tokens
        self._number = fleet.num_bookings
        self._expectation = fleet.index.expect(replica.slot, keys)
        self._computed = self._released = False
        replica.running += 1
        replica.queued_tokens += uncached_tokens
        fleet.outbox.expected(self._number, replica.lease.replica, keys[held_blocks:])
        fleet.outbox.changed(replica.lease.replica)

    def prefill_done(self) -> None:
        """The first token is there: the prompt no longer queues."""
        if self._computed:
            return
        self._computed = True
        self.replica.queued_tokens -= self._queued_tokens
        self._fleet.outbox.computed(self._number)
        self._fleet.outbox.changed(self.replica.lease.replica)

    def release(self, now: float, succeeded: bool) -> None:
        """Give the load back; only the first call counts. ``now`` is a monotonic time in seconds."""
        if self._released:
            return
        self._released = True
        self.prefill_done()
        self.replica.running -= 1
        self._fleet.outbox.changed(self.replica.lease.replica)
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
        self._peer_expectations = PeerExpectations(self.index)
        self.outbox = Outbox()
        self.store_reachable = True
        """Whether Redis answers; without it the last known state goes on serving."""
        self.open_bookings = 0
        self.num_bookings = 0
        """How many there have ever been."""
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
        self.forget_until(now)
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
        self,
        replica: Replica,
        keys: Sequence[int],
        uncached_tokens: int,
        conversation_key: int = 0,
        held_blocks: int = 0,
    ) -> Booking:
        """Book a request's load on the chosen replica, which becomes its conversation's home.

        Other routers need not be told of the first ``held_blocks``, which the replica holds already.
        """
        if conversation_key:
            self._homes[conversation_key] = replica
            self._homes.move_to_end(conversation_key)
        if len(self._homes) > MAX_HOMES:
            self._homes.popitem(last=False)
        self.decisions[replica.lease.model] += 1
        self.open_bookings += 1
        self.num_bookings += 1
        return Booking(self, replica, keys, uncached_tokens, held_blocks)

    def forget_later(self, expectation: Expectation, deadline: float) -> None:
        """Stop expecting these blocks at the given monotonic time, which never lies before an earlier one."""
        self._leaving.append((deadline, expectation))

    def booked(self, replica_id: str) -> Booked:
        """What this router itself has booked on a replica."""
        replica = self.replicas.get(replica_id)
        return Booked(replica.running, replica.queued_tokens) if replica else Booked()

    def hear(self, bookings: Bookings, now: float) -> None:
        """Take in what another router has booked, at a monotonic time in seconds."""
        self.peers.hear(bookings, now)
        slots = {name: replica.slot for name, replica in self.replicas.items()} if bookings.expected else {}
        self._peer_expectations.hear(bookings, slots, now)

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

    def forget_until(self, now: float) -> None:
        """Drop what is over at a monotonic time in seconds: expectations, and routers that fell silent."""
        for router in self.peers.forget_silent(now):
            self._peer_expectations.forget(router)
        self._peer_expectations.expire(now)
        while self._leaving and self._leaving[0][0] <= now:
            self.index.forget(self._leaving.popleft()[1])

    def _sort_models(self) -> None:
        self.models = models_of(self.replicas.values())
