"""Bookings, replicas and their blocks in any order, against a model that keeps plain lists."""

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.fleet.booking import AGEING_TOKENS, EXPECTATION_GRACE_SECONDS, Booking
from cluster.fleet.fleet import Fleet
from cluster.fleet.peers import SILENCE_SECONDS
from cluster.fleet.replicas import Replica
from cluster.protocol.wire import Booked, Bookings, Load, ReplicaState
from tests.cluster.fleets import lease

pytestmark = pytest.mark.timeout(400)  # a failure is made small before it is shown

IDS = ("a", "b")
STATES = st.sampled_from([*ReplicaState, *[ReplicaState.READY] * 8])
BLOCK_SIZE = 16
CHAIN = range(1, 7)
"""The keys of one prompt; every request of these tests has a beginning of it."""

PROMPTS = st.tuples(
    st.integers(0, len(CHAIN)),
    st.integers(0, BLOCK_SIZE - 1),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([True, True, True, False]),
)
"""Blocks, tokens after them, cached blocks, whether the answer is streamed, whether there are keys."""


@dataclass(eq=False)
class Request:
    """A booking, and what it should count for."""

    replica: Replica
    epoch: int
    keys: range
    prompt_tokens: int
    queued_tokens: int
    num_computed: int
    watched: bool
    """Its blocks can be seen in events."""
    seen: bool
    """Its blocks or its first token can be seen."""
    booking: Booking | None = None
    place: float | None = None
    """Its place among those that wait; None when it does not."""
    told: list[bool] = field(default_factory=list)
    """What the waiting room has said."""
    due: list[bool] = field(default_factory=list)
    """What it should have said."""
    computed: bool = False
    released: bool = False
    expected_until: float = float("inf")

    def go(self, admitted):
        """The waiting room says that the waiting is over."""
        assert not self.released
        self.told.append(admitted)

    def look(self, owned):
        """Events have come: what is computed no longer queues."""
        if not self.watched or self.computed or self.place is not None:
            return
        known = self.num_computed
        while self.num_computed < len(self.keys) and self.keys[self.num_computed] in owned:
            self.num_computed += 1
        if self.keys[-1] in owned:
            self.num_computed = len(self.keys)
        self.queued_tokens = max(0, self.queued_tokens - BLOCK_SIZE * (self.num_computed - known))


class LeaseMachine(RuleBasedStateMachine):
    """Replicas that come, go, start anew and come back; requests that wait or not, and end well, badly, twice
    or never; other routers that say what they have booked, and fall silent.
    """

    @initialize(room_tokens=st.sampled_from([1, 16, 40]))
    def begin(self, room_tokens):
        self.fleet = Fleet()
        self.room_tokens = room_tokens
        self.now = 0.0
        self.last_epoch = 0
        self.owned: dict[str, set[int]] = {}
        self.requests: list[Request] = []
        self.seen: list[Replica] = []
        self.others: dict[str, dict[str, Booked]] = {}
        self.heard: dict[str, float] = {}
        self.epoch("a", ReplicaState.READY, publishes_events=True)

    def _known(self, number):
        ids = sorted(self.fleet.replicas)
        return self.fleet.replicas[ids[number % len(ids)]]

    def _open(self, replica):
        return [r for r in self.requests if r.replica is replica and not r.released]

    def _waiting(self, replica):
        waiting = [request for request in self._open(replica) if request.place is not None]
        return sorted(waiting, key=lambda request: request.place)

    def _booked_by_others(self, replica):
        said = [booked.get(replica.lease.replica, Booked()) for booked in self.others.values()]
        return [
            sum(getattr(booked, name) for booked in said)
            for name in ("running", "queued_tokens", "active_tokens", "engine_tokens")
        ]

    def _engine_tokens(self, replica):
        return sum(r.queued_tokens for r in self._open(replica) if r.place is None and r.seen)

    def _engine_queue(self, replica):
        return self._engine_tokens(replica) + self._booked_by_others(replica)[3]

    def _settle(self):
        """Who waits goes in turn while there is room."""
        for replica in self.fleet.replicas.values():
            for request in self._waiting(replica):
                if self._engine_queue(replica) < self.room_tokens:
                    request.place = None
                    request.due.append(True)
                    request.look(self.owned[replica.lease.replica])

    def _send_away(self, replica):
        for request in self._waiting(replica):
            request.place = None
            request.due.append(False)

    def _admit(self, replica_id, epoch, state, publishes_events):
        admitted = lease(replica_id, state=state, block_size=BLOCK_SIZE, publishes_events=publishes_events)
        replica = self.fleet.admit(admitted, epoch, Load())
        if replica not in self.seen:
            self.seen.append(replica)
        if state is not ReplicaState.READY:
            self._send_away(replica)

    @rule(
        replica_id=st.sampled_from(IDS),
        state=STATES,
        publishes_events=st.sampled_from([True, True, True, False]),
    )
    def epoch(self, replica_id, state, publishes_events):
        """A replica comes, comes back, or starts anew: it owns nothing."""
        self.last_epoch += 1
        self._admit(replica_id, self.last_epoch, state, publishes_events)
        self.owned[replica_id] = set()

    @precondition(lambda self: self.fleet.replicas)
    @rule(number=st.integers(0, 1), state=STATES)
    def heartbeat(self, number, state):
        """A lease is renewed: nothing of what is owned or booked changes."""
        replica = self._known(number)
        self._admit(replica.lease.replica, replica.epoch, state, replica.lease.publishes_events)

    @precondition(lambda self: self.fleet.replicas)
    @rule(number=st.integers(0, 1))
    def dismiss(self, number):
        """A lease is over."""
        replica = self._known(number)
        self.fleet.dismiss(replica.lease.replica)
        self._send_away(replica)
        del self.owned[replica.lease.replica]

    @precondition(lambda self: self.fleet.replicas)
    @rule(
        number=st.integers(0, 1),
        stored=st.sets(st.sampled_from(CHAIN)),
        removed=st.sets(st.sampled_from(CHAIN)),
        cleared=st.booleans(),
    )
    def apply(self, number, stored, removed, cleared):
        """A batch of changes: cleared first, then removed, then stored."""
        replica = self._known(number)
        self.fleet.apply(replica, stored, removed, cleared)
        owned = self.owned[replica.lease.replica]
        self.owned[replica.lease.replica] = owned = ((set() if cleared else owned) - removed) | stored
        for request in self._open(replica) if stored else ():
            request.look(owned)
        self._settle()

    @precondition(lambda self: self.fleet.replicas)
    @rule(number=st.integers(0, 1), prompts=st.lists(PROMPTS, min_size=1, max_size=6))
    def book(self, number, prompts):
        """Requests go to a replica, or wait for it."""
        for prompt in prompts:
            self._book(self._known(number), *prompt)

    def _book(self, replica, blocks, tail, cached_blocks, streamed, has_keys):
        keys = CHAIN[: blocks * has_keys]
        tokens = BLOCK_SIZE * blocks + tail
        num_cached = min(cached_blocks, len(keys))
        watched = replica.lease.publishes_events and len(keys) > 0
        queued = tokens - BLOCK_SIZE * num_cached - (tail if watched and not streamed else 0)
        request = Request(
            replica, replica.epoch, keys, tokens, queued, num_cached, watched, watched or streamed
        )
        waits = watched and self._engine_queue(replica) >= self.room_tokens
        request.booking = self.fleet.book(replica, keys, tokens, BLOCK_SIZE * num_cached, streamed=streamed)
        held = self.fleet.hold(request.booking, self.room_tokens, self.now, request.go)
        assert held is waits
        if waits:
            request.place = queued + AGEING_TOKENS * self.now
        self.requests.append(request)

    @rule(
        router=st.sampled_from("xy"),
        replica_id=st.sampled_from(IDS),
        sent=st.integers(0, 60),
        unsent=st.integers(0, 60),
        complete=st.booleans(),
    )
    def receive(self, router, replica_id, sent, unsent, complete):
        """Another router says what it has booked."""
        booked = {replica_id: Booked(1, sent + unsent, 100, sent)}
        self.fleet.receive(Bookings(router, booked, complete), self.now)
        self.others[router] = {**({} if complete else self.others.get(router, {})), **booked}
        self.heard[router] = self.now
        self._settle()

    @precondition(lambda self: self.requests)
    @rule(number=st.integers(0, 100))
    def prefill_done(self, number):
        """A first token comes, perhaps a second time, perhaps after the end."""
        request = self.requests[number % len(self.requests)]
        request.booking.prefill_done(self.now)
        request.queued_tokens, request.computed, request.place = 0, True, None
        self._settle()

    @precondition(lambda self: self.requests)
    @rule(number=st.integers(0, 100))
    def resume(self, number):
        """A request has waited long enough."""
        request = self.requests[number % len(self.requests)]
        request.booking.resume()
        request.place = None

    @precondition(lambda self: self.requests)
    @rule(number=st.integers(0, 100), succeeded=st.booleans())
    def release(self, number, succeeded):
        """A request ends, perhaps a second time, perhaps while it waits."""
        self._release(self.requests[number % len(self.requests)], succeeded)

    def _release(self, request, succeeded):
        if not request.released:
            request.released, request.queued_tokens, request.place = True, 0, None
            request.expected_until = self.now + EXPECTATION_GRACE_SECONDS if succeeded else self.now
        request.booking.release(self.now, succeeded)
        self._settle()

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 5.0]))
    def time_passes(self, seconds):
        """What ended requests expected is forgotten after a while, and so are routers that say nothing."""
        self.now += seconds
        self.fleet.forget_until(self.now)
        for router in [name for name, heard in self.heard.items() if heard + SILENCE_SECONDS <= self.now]:
            del self.others[router], self.heard[router]
        self._settle()

    @invariant()
    def agrees(self):
        """Sums are those of the open requests; a snapshot sees what is owned and what is expected."""
        if not hasattr(self, "fleet"):
            return
        fleet = self.fleet
        fleet.check_integrity()
        assert fleet.replicas.keys() == self.owned.keys()
        assert fleet.open_bookings == sum(not request.released for request in self.requests)
        for replica in self.seen:
            open_here = self._open(replica)
            assert replica.running == len(open_here)
            assert replica.queued_tokens == sum(request.queued_tokens for request in open_here)
            assert replica.active_tokens == sum(request.prompt_tokens for request in open_here)
            assert replica.engine_tokens == self._engine_tokens(replica)
            assert replica.held == len(self._waiting(replica))
            assert not replica.held or fleet.engine_queue(replica) >= self.room_tokens
        for request in self.requests:
            assert request.booking.queued_tokens == request.queued_tokens
            assert request.booking.held is (request.place is not None)
            assert request.told == request.due
            assert len(request.told) + request.booking.held <= 1
        if fleet.models:
            self._agrees_with_snapshot(fleet.models["m"])

    def _agrees_with_snapshot(self, model):
        snapshot = self.fleet.snapshot(model, CHAIN, (len(CHAIN) + 1) * BLOCK_SIZE, self.now)
        assert snapshot.replicas == tuple(sorted(self.owned))
        assert snapshot.cached_tokens.tolist() == [self._cached(replica) for replica in model.replicas]
        others = [self._booked_by_others(replica) for replica in model.replicas]
        for column, name in enumerate(("running", "queued_tokens", "active_tokens")):
            own = [getattr(replica, name) for replica in model.replicas]
            expected = [mine + theirs[column] for mine, theirs in zip(own, others, strict=True)]
            assert getattr(snapshot, name).tolist() == expected

    def _cached(self, replica):
        """Leading tokens of the prompt that are owned, or expected by a request of this epoch."""
        held = set(self.owned[replica.lease.replica]) if replica.lease.publishes_events else set()
        for request in self.requests if replica.lease.publishes_events else ():
            mine = request.replica is replica and request.epoch == replica.epoch
            if mine and request.expected_until > self.now:
                held.update(request.keys)
        return BLOCK_SIZE * next((depth for depth, key in enumerate(CHAIN) if key not in held), len(CHAIN))

    def teardown(self):
        """When all requests have ended nothing is booked, and soon nothing is expected."""
        if not hasattr(self, "fleet"):
            return
        for request in self.requests:
            self._release(request, succeeded=True)
        self.time_passes(EXPECTATION_GRACE_SECONDS)
        self.agrees()
        assert self.fleet.open_bookings == 0
        for each in self.seen:
            assert (each.running, each.queued_tokens, each.active_tokens) == (0, 0, 0)
            assert (each.engine_tokens, each.held, each.prefilling) == (0, 0, {})
        for replica_id in list(self.fleet.replicas):
            self.fleet.dismiss(replica_id)
        assert len(self.fleet.index) == 0
        assert not self.fleet.index.matched_blocks(CHAIN).any()


TestLeaseMachine = LeaseMachine.TestCase
