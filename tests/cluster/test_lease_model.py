"""Bookings, replicas and their blocks in any order, against a model that keeps plain lists."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.booking import EXPECTATION_GRACE_SECONDS, Booking
from cluster.fleet import Fleet
from cluster.replicas import Replica
from cluster.wire import Lease, Load, ReplicaState

pytestmark = pytest.mark.timeout(400)  # a failure is made small before it is shown

IDS = ("a", "b", "c")
BLOCK_SIZE = 16
CHAIN = range(1, 7)
"""The keys of one prompt; every request of these tests has a beginning of it."""


@dataclass(eq=False)
class Request:
    """A booking, and what it should count for."""

    booking: Booking
    replica: Replica
    epoch: int
    keys: range
    prompt_tokens: int
    queued_tokens: int
    released: bool = False
    expected_until: float = float("inf")


class LeaseMachine(RuleBasedStateMachine):
    """Replicas that come, go, start anew and come back; requests that end well, badly, twice or never."""

    @initialize()
    def begin(self):
        self.fleet = Fleet()
        self.now = 0.0
        self.last_epoch = 0
        self.owned: dict[str, set[int]] = {}
        self.requests: list[Request] = []
        self.seen: list[Replica] = []

    def _known(self, number):
        ids = sorted(self.fleet.replicas)
        return self.fleet.replicas[ids[number % len(ids)]]

    def _admit(self, replica_id, epoch, state):
        lease = Lease(
            replica=replica_id,
            url="http://r",
            state=state,
            model="m",
            block_size=BLOCK_SIZE,
            publishes_events=True,
        )
        replica = self.fleet.admit(lease, epoch, Load())
        if replica not in self.seen:
            self.seen.append(replica)

    @rule(replica_id=st.sampled_from(IDS), state=st.sampled_from(ReplicaState))
    def epoch(self, replica_id, state):
        """A replica comes, comes back, or starts anew: it owns nothing."""
        self.last_epoch += 1
        self._admit(replica_id, self.last_epoch, state)
        self.owned[replica_id] = set()

    @precondition(lambda self: self.fleet.replicas)
    @rule(number=st.integers(0, 2), state=st.sampled_from(ReplicaState))
    def heartbeat(self, number, state):
        """A lease is renewed: nothing of what is owned or booked changes."""
        replica = self._known(number)
        self._admit(replica.lease.replica, replica.epoch, state)

    @precondition(lambda self: self.fleet.replicas)
    @rule(number=st.integers(0, 2))
    def dismiss(self, number):
        """A lease is over."""
        replica_id = self._known(number).lease.replica
        self.fleet.dismiss(replica_id)
        del self.owned[replica_id]

    @precondition(lambda self: self.fleet.replicas)
    @rule(
        number=st.integers(0, 2),
        stored=st.sets(st.sampled_from(CHAIN)),
        removed=st.sets(st.sampled_from(CHAIN)),
        cleared=st.booleans(),
    )
    def apply(self, number, stored, removed, cleared):
        """A batch of changes: cleared first, then removed, then stored."""
        replica = self._known(number)
        self.fleet.apply(replica, stored, removed, cleared)
        owned = self.owned[replica.lease.replica]
        self.owned[replica.lease.replica] = ((set() if cleared else owned) - removed) | stored

    @precondition(lambda self: self.fleet.replicas)
    @rule(
        number=st.integers(0, 2),
        blocks=st.integers(0, len(CHAIN)),
        uncached=st.integers(0, 1000),
        cached=st.integers(0, 96),
    )
    def book(self, number, blocks, uncached, cached):
        """A request goes to a replica."""
        replica, keys, tokens = self._known(number), CHAIN[:blocks], uncached + cached
        booking = self.fleet.book(replica, keys, tokens, cached)
        self.requests.append(Request(booking, replica, replica.epoch, keys, tokens, uncached))

    @precondition(lambda self: self.requests)
    @rule(number=st.integers(0, 100))
    def prefill_done(self, number):
        """A first token comes, perhaps a second time, perhaps after the end."""
        request = self.requests[number % len(self.requests)]
        request.booking.prefill_done(self.now)
        request.queued_tokens = 0

    @precondition(lambda self: self.requests)
    @rule(number=st.integers(0, 100), succeeded=st.booleans())
    def release(self, number, succeeded):
        """A request ends, perhaps a second time."""
        self._release(self.requests[number % len(self.requests)], succeeded)

    def _release(self, request, succeeded):
        request.booking.release(self.now, succeeded)
        if not request.released:
            request.released, request.queued_tokens = True, 0
            request.expected_until = self.now + EXPECTATION_GRACE_SECONDS if succeeded else self.now

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 5.0]))
    def time_passes(self, seconds):
        """What ended requests expected is forgotten after a while."""
        self.now += seconds

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
            open_here = [r for r in self.requests if r.replica is replica and not r.released]
            assert replica.running == len(open_here)
            assert replica.queued_tokens == sum(request.queued_tokens for request in open_here)
            assert replica.active_tokens == sum(request.prompt_tokens for request in open_here)
        if not fleet.models:
            return
        model = fleet.models["m"]
        snapshot = fleet.snapshot(model, CHAIN, (len(CHAIN) + 1) * BLOCK_SIZE, self.now)
        assert snapshot.replicas == tuple(sorted(self.owned))
        assert snapshot.cached_tokens.tolist() == [self._cached(replica) for replica in model.replicas]
        assert snapshot.running.tolist() == [replica.running for replica in model.replicas]
        assert snapshot.queued_tokens.tolist() == [replica.queued_tokens for replica in model.replicas]
        assert snapshot.active_tokens.tolist() == [replica.active_tokens for replica in model.replicas]

    def _cached(self, replica):
        """Leading tokens of the prompt that are owned, or expected by a request of this epoch."""
        held = set(self.owned[replica.lease.replica])
        for request in self.requests:
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
        self.now += EXPECTATION_GRACE_SECONDS
        self.agrees()
        assert self.fleet.open_bookings == 0
        assert all(r.running == r.queued_tokens == r.active_tokens == 0 for r in self.seen)
        for replica_id in list(self.fleet.replicas):
            self.fleet.dismiss(replica_id)
        assert len(self.fleet.index) == 0
        assert not self.fleet.index.matched_blocks(CHAIN).any()


LeaseMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestLeaseMachine = LeaseMachine.TestCase
