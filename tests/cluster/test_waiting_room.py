"""Who waits in the router, in which order they go, and that nobody is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.booking import AGEING_TOKENS, SPARE_ENTRIES
from cluster.fleet.fleet import Fleet
from cluster.protocol.wire import Booked, Bookings, Load, ReplicaState
from tests.cluster.fleets import fleet_of, lease

ROOM = 100


class Clients:
    """Requests to replica ``a``, and the order in which they are let go."""

    def __init__(self, fleet: Fleet):
        self.fleet = fleet
        self.bookings = {}
        self.order = []
        self.sent_away = []

    def ask(self, name, tokens, since=0.0, **options):
        """Book a request, and wait for room."""
        replica = self.fleet.replicas["a"]
        self.bookings[name] = booking = self.fleet.book(replica, range(tokens // 16), tokens, **options)
        if not self.fleet.hold(booking, ROOM, since, lambda room: self._go(name, room)):
            self._go(name, True)
        return booking

    def compute(self):
        """Whatever has been sent is computed, and what is sent then, until nobody waits."""
        for name in self.order:
            self.bookings[name].prefill_done(0.0)

    def _go(self, name, room):
        (self.order if room else self.sent_away).append(name)


@pytest.fixture
def fleet():
    """One replica that is ready."""
    return fleet_of(lease())


@pytest.fixture
def clients(fleet):
    """Clients of that fleet."""
    return Clients(fleet)


def test_nobody_waits_while_there_is_room(fleet, clients):
    """The first goes, whatever its length, for the engine has nothing to do; the next waits for it."""
    first = clients.ask("first", 160)
    clients.ask("second", 160)
    assert clients.order == ["first"]
    assert (fleet.replicas["a"].held, fleet.engine_queue(fleet.replicas["a"])) == (1, 160)
    first.prefill_done(0.0)
    assert clients.order == ["first", "second"]
    assert (fleet.replicas["a"].held, fleet.engine_queue(fleet.replicas["a"])) == (0, 160)


def test_events_make_room(fleet, clients):
    """Requests go as the engine's events show how far it is, long before the first token."""
    clients.ask("first", 160)
    clients.ask("second", 160)
    fleet.apply(fleet.replicas["a"], range(3), (), cleared=False)
    assert clients.order == ["first"]
    fleet.apply(fleet.replicas["a"], range(3, 5), (), cleared=False)
    assert clients.order == ["first", "second"]


def test_shortest_goes_first(clients):
    """Of those that came together; equally long ones go in their order."""
    for name, tokens in (("first", 160), ("long", 480), ("short", 112), ("middle", 160), ("short too", 112)):
        clients.ask(name, tokens)
    clients.compute()
    assert clients.order == ["first", "short", "short too", "middle", "long"]


@given(
    st.lists(
        st.tuples(st.integers(7, 5000), st.sampled_from([0.0, 0.125, 0.5, 2.0, 8.0, 9.5])),
        min_size=2,
        max_size=20,
    )
)
def test_waiting_outweighs_length(requests):
    """A request that waited w seconds longer goes before every one with up to 3,000 w tokens less."""
    clients = Clients(fleet_of(lease()))
    clients.ask("first", 160)
    for number, (blocks, since) in enumerate(requests):
        clients.ask(number, 16 * blocks, since)
    clients.compute()
    assert sorted(clients.order[1:]) == list(range(len(requests)))
    turns = {name: turn for turn, name in enumerate(clients.order)}
    for one, (blocks, since) in enumerate(requests):
        for other, (other_blocks, other_since) in enumerate(requests):
            if 16 * (blocks - other_blocks) < AGEING_TOKENS * (other_since - since):
                assert turns[one] < turns[other]


def test_thousands_of_tiny_requests_go_at_once(fleet, clients):
    """However many fit into the room, letting them go does not nest."""
    first = clients.ask("first", 160)
    for number in range(5_000):
        clients.ask(number, 16, cached_tokens=16)
    first.prefill_done(0.0)
    assert clients.order == ["first", *range(5_000)]
    assert fleet.replicas["a"].held == 0


def test_those_that_left_are_no_obstacle(fleet, clients):
    """A request released while it waits is never let go, and the next one takes its turn."""
    first = clients.ask("first", 160)
    gone = clients.ask("gone", 16)
    clients.ask("second", 160)
    gone.release(0.0, succeeded=False)
    first.release(0.0, succeeded=True)
    assert clients.order == ["first", "second"]
    assert fleet.booked("a") == Booked(1, 160, 160, 160)


def test_entries_of_those_that_left_are_swept(fleet, clients):
    """Clients that leave while nobody can go do not fill the memory, and who stays keeps its place."""
    first = clients.ask("first", 160)
    for number in range(20):
        clients.ask(number, 160, since=number)
    for _ in range(1_000):
        clients.ask("gone", 16_000, since=50.0).release(0.0, succeeded=False)
    assert len(fleet._waiting) <= 3 * 20 + SPARE_ENTRIES
    first.prefill_done(0.0)
    assert clients.order == ["first", 0]
    assert fleet.replicas["a"].held == 19


@pytest.mark.parametrize("state", [ReplicaState.DRAINING, ReplicaState.UNREACHABLE, None])
def test_replica_that_takes_no_more_sends_away(fleet, clients, state):
    """Draining, unreachable or gone: all that wait for it learn of it, and can be decided anew elsewhere."""
    fleet.admit(lease("b"), 1, Load())
    eligible = []

    def decide_anew(room):
        eligible.append(fleet.snapshot(fleet.models["m"], (), 10, 0.0).eligible.sum())

    first = clients.ask("first", 160)
    waiting = [clients.ask(number, 160) for number in range(3)]
    assert fleet.hold(fleet.book(first.replica, range(10), 160), ROOM, 0.0, decide_anew)
    if state is None:
        fleet.dismiss("a")
    else:
        fleet.admit(lease(state=state), 1, Load())
    assert (clients.order, clients.sent_away) == (["first"], [0, 1, 2])
    assert eligible == [1], "it would have been sent to the same replica again"
    for booking in waiting:
        booking.release(0.0, succeeded=False)
    assert first.replica.held == 0


def test_new_epoch_keeps_who_waits(fleet, clients):
    """An agent that publishes its blocks anew changes nothing for those that wait."""
    first = clients.ask("first", 160)
    clients.ask("second", 160)
    fleet.admit(lease(), 2, Load())
    assert (clients.order, clients.sent_away) == (["first"], [])
    fleet.apply(fleet.replicas["a"], range(10), (), cleared=False)
    assert clients.order == ["first", "second"]
    first.release(0.0, succeeded=True)


def test_others_work_counts_and_what_waits_at_others_does_not(fleet, clients):
    """All routers together fill the engine's room; a router that falls silent does not block it."""
    fleet.receive(Bookings("x", {"a": Booked(2, 1_000, 1_000, 99)}), 0.0)
    clients.ask("first", 16)
    clients.ask("second", 16)
    assert clients.order == ["first"]
    fleet.forget_until(10.0)
    assert clients.order == ["first", "second"]


@pytest.mark.parametrize(
    ("leased", "tokens"),
    [({"publishes_events": False}, 160), ({"block_size": 0}, 160), ({"block_size": 8}, 160), ({}, 15)],
    ids=["no events", "no block size", "blocks of another size", "no keys"],
)
def test_what_cannot_be_watched_never_waits(fleet, clients, leased, tokens):
    """Without events on the prompt's own blocks nobody knows when its engine has room."""
    clients.ask("first", 160)
    fleet.admit(lease(**leased), 1, Load())
    clients.ask("second", tokens)
    assert clients.order == ["first", "second"]


def test_nobody_waits_without_redis(fleet, clients):
    """No events arrive then."""
    fleet.store_reachable = False
    clients.ask("first", 160)
    clients.ask("second", 160)
    assert clients.order == ["first", "second"]


def test_nobody_waits_for_a_policy_without_a_limit(fleet):
    """Room without end is there always."""
    for _ in range(3):
        booking = fleet.book(fleet.replicas["a"], range(1_000), 16_000)
        assert not fleet.hold(booking, float("inf"), 0.0, pytest.fail)


def test_error_of_one_that_goes_does_not_lock_the_others_in(fleet, clients):
    """The next change lets them go."""
    first = clients.ask("first", 160)

    def fail(_room):
        raise RuntimeError("went wrong")

    failing = fleet.book(first.replica, range(1), 16)
    assert fleet.hold(failing, ROOM, 0.0, fail)
    clients.ask("second", 160)
    with pytest.raises(RuntimeError, match="went wrong"):
        first.prefill_done(0.0)
    failing.release(0.0, succeeded=False)
    assert clients.order == ["first", "second"]


def test_takes_requests_knows_who_is_gone_or_failed(fleet):
    """A replica that came anew is another one; one that failed counts again after its time."""
    replica = fleet.replicas["a"]
    replica.failed_until = 5.0
    assert (fleet.takes_requests(replica, 4.9), fleet.takes_requests(replica, 5.0)) == (False, True)
    fleet.dismiss("a")
    new = fleet.admit(lease(), 1, Load())
    assert (fleet.takes_requests(replica, 5.0), fleet.takes_requests(new, 5.0)) == (False, True)
    fleet.admit(lease(state=ReplicaState.DRAINING), 1, Load())
    assert not fleet.takes_requests(new, 5.0)
