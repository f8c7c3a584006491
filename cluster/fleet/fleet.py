"""What a decision reads and changes: replicas, the index of their blocks, and the load booked on them.

Everything here is synchronous: a decision and its booking happen between two awaits, and never wait for
Redis.
"""

import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Sequence

import numpy as np

from cluster.fleet.booking import Booking, WaitingRoom
from cluster.fleet.branches import Branches
from cluster.fleet.peers import Outbox, PeerBookings, PeerExpectations
from cluster.fleet.programs import Programs
from cluster.fleet.replica_table import ReplicaTable
from cluster.fleet.replicas import Model, Replica, ServedNames, models_of, relative_paces
from cluster.fleet.sent_prompts import SentPrompts
from cluster.fleet.turns import Turns
from cluster.index.block_table import BlockKeys, as_keys
from cluster.index.prefix_index import DEFAULT_MAX_BLOCKS, Expectation, PrefixIndex
from cluster.protocol.wire import Booked, Bookings, Lease, Load, ReplicaState
from cluster.store.store_condition import StoreCondition
from policies.ring import points_of
from policies.types import Costs, Counts, Snapshot

NOTHING_MATCHED: Counts = np.empty(0, dtype=np.int64)
PACE_SECONDS = 0.25
"""How long measured paces are used before they are compared anew."""
MAX_CONVERSATIONS = 100_000
"""Conversations whose last replica is remembered; those not continued for longest are forgotten."""


class Fleet:
    """All replicas, by id, and the models they serve, by every name a client may use."""

    def __init__(self, max_blocks: int = DEFAULT_MAX_BLOCKS) -> None:
        self.index = PrefixIndex(max_blocks)
        self.replicas: dict[str, Replica] = {}
        self._table = ReplicaTable()
        self._models: dict[str, Model] | None = None
        self._names = ServedNames()
        self.peers = PeerBookings()
        self._peer_expectations = PeerExpectations(self.index)
        self.outbox = Outbox()
        self.store_reachable = True
        """Whether Redis answers; without it the last known state goes on serving."""
        self.store = StoreCondition()
        self.num_repairs = 0
        """How often a replica's blocks were found to differ from Redis, and were read anew."""
        self.open_bookings = self.num_bookings = 0
        """Now, and how many there have ever been."""
        self.waiting_requests = 0
        """Open bookings whose requests have not been sent, since they wait in the router."""
        self.decisions: Counter[str] = Counter()
        """How many requests have been booked for each base model."""
        self._last_replicas: OrderedDict[int, Replica] = OrderedDict()
        self._leaving: deque[tuple[float, Expectation]] = deque()
        self.sent = SentPrompts(self.index)
        self._waiting, self.programs = WaitingRoom(), Programs()
        self.turns = Turns(self.programs, self.outbox)
        self.branches: defaultdict[str, Branches] = defaultdict(Branches)
        """Where prompts part ways, by base model."""
        self._drained: Collection[str] = frozenset()
        self._paces: dict[str, tuple[float, Costs]] = {}

    @property
    def models(self) -> dict[str, Model]:
        """The models that replicas serve, by every name a client may use."""
        if self._models is None:
            self._models = models_of(self.replicas.values())
            self._names.note(self._models.keys(), time.monotonic())
            self._paces.clear()
        return self._models

    def served_lately(self, name: str) -> bool:
        """Whether a model of this name has gone only a while ago."""
        return self._names.has(name, time.monotonic())

    def admit(self, lease: Lease, epoch: int, load: Load) -> Replica:
        """Take in a replica's lease. A new epoch starts with nothing owned and nothing expected."""
        replica = self.replicas.get(lease.replica)
        if replica is None:
            replica = Replica(lease, epoch, self.index.add_replica(), drained=lease.replica in self._drained)
            self.replicas[lease.replica] = replica
            self._models = None
            points_of(lease.replica)  # now, so that the first decision does not wait for those of all
        elif replica.epoch != epoch:
            self.index.restart_replica(replica.slot)
            self.programs.dismiss(replica.slot)
            replica.epoch, replica.failed_until = epoch, 0.0
        if lease != replica.lease:
            if lease.state is not replica.lease.state:
                replica.failed_until = 0.0
            replica.lease = lease
            self._models = None
        replica.load = load
        self._tabulate(lease.replica)
        if lease.state is not ReplicaState.READY:
            self._waiting.send_away(replica)
        return replica

    def drain(self, replica_ids: Collection[str]) -> None:
        """Send nothing new to these replicas, and to all others again. They need not be here now."""
        self._drained = frozenset(replica_ids)
        for replica_id, replica in self.replicas.items():
            if replica.drained != (replica_id in self._drained):
                replica.drained = not replica.drained
                self._tabulate(replica_id)
                if replica.drained:
                    self._waiting.send_away(replica)

    def dismiss(self, replica_id: str) -> None:
        """Forget a replica. Requests still open on it keep their bookings until they end."""
        replica = self.replicas.pop(replica_id)
        self.index.remove_replica(replica.slot)
        self.programs.dismiss(replica.slot)
        self._models = None
        self._waiting.send_away(replica)

    def apply(
        self,
        replica: Replica,
        stored: Collection[int] | BlockKeys,
        removed: Collection[int] | BlockKeys,
        cleared: bool,
    ) -> None:
        """Apply one batch of a replica's ownership changes."""
        if cleared:
            self.index.clear(replica.slot)
        self.index.remove(replica.slot, removed)
        self.index.store(replica.slot, stored)
        if len(stored) and sum(booking.progress() for booking in list(replica.prefilling)):
            self.load_changed(replica)

    def snapshot(
        self,
        model: Model,
        keys: Sequence[int] | BlockKeys,
        prompt_tokens: int,
        now: float,
        excluded: Collection[str] = (),
        conversation_key: int = 0,
        heed_failures: bool = True,
        context_tokens: int = 0,
        exact: bool = True,
        with_room: bool = False,
    ) -> Snapshot:
        """The replicas of a model as a policy sees them for one prompt, at a monotonic time in seconds. The
        model is one of `models` as they are now: it is made anew when replicas come and go.

        A ``conversation_key`` of 0 stands for an unknown conversation. Without ``heed_failures``, replicas
        that failed a moment ago are eligible all the same. Those whose context has no room for
        ``context_tokens`` never are. Keys that are not ``exact`` are of texts: caches count as seen where
        anybody was sent such a text. What room there is in KV memory is looked up only ``with_room``.
        """
        self.forget_until(now)
        matched, most, block_size = NOTHING_MATCHED, 0, 0
        caches_seen = bool(len(keys)) and model.namespace is not None
        if caches_seen and model.namespace is not None:
            block_size = model.namespace.block_size
            # The engine always computes a prompt's last token, and finds only full blocks in its cache.
            most = max(prompt_tokens - 1, 0) // block_size
            matched = self.index.matched_blocks(keys)
            caches_seen = exact or bool(matched.any())
        numbers, eligible, longest = self._table.read(model.slots, matched, most, block_size)
        for replica_id in excluded:
            if replica_id in model.rows:
                eligible[model.rows[replica_id]] = False
        if heed_failures:
            for row, replica in enumerate(model.replicas):
                if replica.failed_until > now:
                    eligible[row] = False
        if model.context_limits is not None:
            eligible &= model.context_limits >= context_tokens
        numbers.flags.writeable = eligible.flags.writeable = False
        cached, queued, running, active = numbers
        return Snapshot(
            replicas=model.ids,
            eligible=eligible,
            cached_tokens=cached,
            queued_tokens=queued,
            running=running,
            active_tokens=active,
            pace=self._relative_paces(model, now),
            last_replica=model.row_of(self._last_replicas.get(conversation_key)),
            caches_seen=caches_seen,
            share=self.branches[model.base].share(int(keys[longest - 1])) if longest else 0.0,
            number=self.decisions[model.base],
            outlook=self.programs.outlook(model, conversation_key, keys) if with_room else None,
        )

    def book(
        self,
        replica: Replica,
        keys: Sequence[int] | BlockKeys,
        prompt_tokens: int,
        cached_tokens: int = 0,
        conversation_key: int = 0,
        streamed: bool = True,
        exact: bool = True,
        program_at: float | None = None,
    ) -> Booking:
        """Book a request's load on the chosen replica, which becomes its conversation's last replica.

        Of the prompt, the replica is believed to hold the first ``cached_tokens`` already. A
        ``conversation_key`` of 0 stands for an unknown conversation. Of an answer that is not ``streamed``
        nobody sees the first token. Keys that are not ``exact`` are of texts: nobody reports their blocks.
        With ``program_at``, a monotonic time in seconds, it is a turn of a program.
        """
        if conversation_key:
            self._last_replicas[conversation_key] = replica
            self._last_replicas.move_to_end(conversation_key)
        if len(self._last_replicas) > MAX_CONVERSATIONS:
            self._last_replicas.popitem(last=False)
        self.decisions[replica.lease.base] += 1
        self.open_bookings += 1
        self.num_bookings += 1
        num_held = cached_tokens // replica.lease.block_size if replica.lease.block_size else 0
        if 0 < num_held < len(keys):
            self.branches[replica.lease.base].add(int(keys[num_held - 1]), cached_tokens)
        text_of = 0 if exact else conversation_key
        booking = Booking(self, replica, as_keys(keys), prompt_tokens, cached_tokens, streamed, text_of)
        if program_at is not None:
            booking.begin_program(conversation_key, program_at)
        return booking

    def hold(self, booking: Booking, room_tokens: float, since: float, go: Callable[[bool], None]) -> bool:
        """Whether a request has to wait until its replica's engine has less than ``room_tokens`` to compute.

        Then ``go`` is called once: with True when its turn has come, with False when its replica takes no
        more requests. Releasing the booking ends the waiting. Of two requests the one that has waited longer
        goes first unless it has much more to compute; ``since`` is a monotonic time in seconds.

        A request whose computing cannot be watched never waits, and without Redis nobody does.
        """
        if self.has_room(booking, room_tokens):
            return False
        self._waiting.enter(booking, room_tokens, since, go)
        return True

    def has_room(self, booking: Booking, room_tokens: float) -> bool:
        """Whether a request need not wait: see `hold`."""
        if not self.sees_progress(booking):
            return True
        return self.engine_queue(booking.replica) - booking.queued_tokens < room_tokens

    def sees_progress(self, booking: Booking) -> bool:
        """Whether the computing of a request's prompt shows: its replica's events come in by way of Redis."""
        written = not self.store.refusal and booking.replica.lease_missing_since is None
        return booking.watched and self.store_reachable and written

    def takes_requests(self, replica: Replica, now: float) -> bool:
        """Whether a replica is still there, in service, and has not failed just before a monotonic time."""
        known = self.replicas.get(replica.lease.replica) is replica
        return known and replica.takes_requests and replica.failed_until <= now

    def engine_queue(self, replica: Replica) -> int:
        """Prompt tokens that all routers have sent to a replica and that its engine has not computed."""
        return replica.engine_tokens + self.peers[replica.lease.replica].engine_tokens

    def forget_later(self, expectation: Expectation, deadline: float) -> None:
        """Stop expecting these blocks at the given monotonic time, which never lies before an earlier one."""
        self._leaving.append((deadline, expectation))

    def booked(self, replica_id: str) -> Booked:
        """What this router itself has booked on a replica."""
        if (replica := self.replicas.get(replica_id)) is None:
            return Booked()
        return Booked(replica.running, replica.queued_tokens, replica.active_tokens, replica.engine_tokens)

    def receive(self, bookings: Bookings, now: float) -> None:
        """Take in what another router has booked, at a monotonic time in seconds."""
        self._tabulate(*self.peers.receive(bookings, now))
        self._peer_expectations.receive(bookings, self.replicas, now)
        self.turns.receive(bookings, self.replicas, now)

    def check_integrity(self) -> None:
        """Bookings equal what is booked on replicas, the index equals the union of its replicas, and what
        snapshots show of replicas equals what these say.

        Raises `AssertionError` otherwise. Bookings on replicas that have left are not in the sum.
        """
        booked = sum(replica.running for replica in self.replicas.values())
        if booked > self.open_bookings or any(
            min(r.running, r.held, r.active_tokens, r.engine_tokens, r.queued_tokens - r.engine_tokens) < 0
            for r in self.replicas.values()
        ):
            raise AssertionError(f"{booked} requests booked on replicas, {self.open_bookings} bookings open")
        self.index.check_integrity()
        self.programs.check_integrity()
        self.peers.check_integrity()
        for replica in self.replicas.values():
            self._table.check_integrity(replica, self.peers[replica.lease.replica])

    def forget_until(self, now: float) -> None:
        """Drop what is over at a monotonic time in seconds: expectations, and routers that fell silent."""
        for router in self.peers.forget_silent(now):
            self._peer_expectations.forget(router)
            self.turns.forget(router, now)
            self._tabulate(*self.replicas)
        self._peer_expectations.expire(now)
        if self.sent.num_keys:
            self.sent.expire(now)
        if self.programs.away or self.turns.open:
            self.turns.expire(now)
        while self._leaving and self._leaving[0][0] <= now:
            self.index.forget(self._leaving.popleft()[1])

    def load_changed(self, replica: Replica) -> None:
        """What this router has booked on a replica has changed."""
        self.outbox.changed(replica.lease.replica)
        self._tabulate(replica.lease.replica)

    def _tabulate(self, *replica_ids: str) -> None:
        """What is known of these replicas has changed. Those that have left have no row."""
        for replica_id in replica_ids:
            if replica := self.replicas.get(replica_id):
                self._table.write(replica, self.peers[replica_id])
                self._waiting.admit(replica, self.engine_queue)

    def _relative_paces(self, model: Model, now: float) -> Costs:
        until, paces = self._paces.get(model.name, (now, None))
        if paces is None or until <= now:
            paces = relative_paces([replica.pace for replica in model.replicas], now)
            self._paces[model.name] = now + PACE_SECONDS, paces
        return paces
