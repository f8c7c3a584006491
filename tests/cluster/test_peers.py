"""What other routers have booked: sums that are right whatever is lost, repeated or late."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.peers import MAX_EXPECTED_KEYS, MAX_WAITING, SILENCE_SECONDS, Outbox, PeerBookings
from cluster.protocol.block_keys import KEY_BYTES, pack_keys
from cluster.protocol.wire import Booked, Bookings, Expected, ProgramTurn

BOOKED = st.builds(Booked, *[st.integers(0, 3)] * 4)
MESSAGES = st.lists(
    st.tuples(
        st.sampled_from("xyz"),
        st.dictionaries(st.sampled_from("abc"), BOOKED),
        st.booleans(),
        st.floats(0, 1),
    ),
    max_size=30,
)


def told(router, complete=False, **replicas):
    """A message of one router: running requests and queued tokens per replica."""
    return Bookings(router, {name: Booked(*numbers) for name, numbers in replicas.items()}, complete)


def test_routers_add_up_per_replica():
    """A replica's load is what all other routers have booked there."""
    peers = PeerBookings()
    peers.receive(told("x", a=(1, 100), b=(2, 0)), 0.0)
    peers.receive(told("y", a=(3, 50)), 0.0)
    assert peers["a"] == Booked(4, 150)
    assert peers["b"] == Booked(2, 0)
    assert peers["unknown"] == Booked()


def test_repeated_message_counts_once():
    """Messages carry totals, so that a repetition changes nothing."""
    peers = PeerBookings()
    for _ in range(3):
        peers.receive(told("x", a=(1, 100)), 0.0)
    assert peers["a"] == Booked(1, 100)


def test_complete_message_ends_what_it_does_not_name():
    """The message that said that a booking ended was lost; the next complete one repairs that."""
    peers = PeerBookings()
    peers.receive(told("x", a=(1, 100), b=(1, 0)), 0.0)
    peers.receive(told("x", b=(1, 0), complete=True), 0.0)
    assert (peers["a"], peers["b"]) == (Booked(), Booked(1, 0))


def test_silent_router_is_forgotten():
    """What a dead router had booked counts until its silence has lasted long enough, and no longer."""
    peers = PeerBookings()
    peers.receive(told("x", a=(1, 100)), 0.0)
    peers.receive(told("y", a=(1, 10)), 1.0)
    peers.forget_silent(SILENCE_SECONDS - 0.01)
    assert peers["a"] == Booked(2, 110)
    peers.forget_silent(SILENCE_SECONDS)
    assert peers["a"] == Booked(1, 10)
    assert set(peers.by_router()) == {"y"}


def test_router_that_speaks_again_is_heard():
    """A router that was stopped for a while comes back with its next complete message."""
    peers = PeerBookings()
    peers.receive(told("x", a=(1, 100)), 0.0)
    peers.forget_silent(10.0)
    peers.receive(told("x", a=(2, 0), complete=True), 11.0)
    assert peers["a"] == Booked(2, 0)


@given(MESSAGES)
def test_totals_equal_a_plain_model(messages):
    """After any messages and silences the totals are the sums of what each living router said last."""
    peers, model, heard, now = PeerBookings(), {}, {}, 0.0
    for router, replicas, complete, pause in messages:
        now += pause
        peers.forget_silent(now)
        for name in [name for name, since in heard.items() if since + SILENCE_SECONDS <= now]:
            del model[name], heard[name]
        peers.receive(Bookings(router, replicas, complete), now)
        model[router] = {**({} if complete else model.get(router, {})), **replicas}
        heard[router] = now
        for replica in "abc":
            said = [booked.get(replica, Booked()) for booked in model.values()]
            expected = Booked(
                sum(b.running for b in said),
                sum(b.queued_tokens for b in said),
                sum(b.active_tokens for b in said),
                sum(b.engine_tokens for b in said),
            )
            assert peers[replica] == expected
        peers.check_integrity()


def test_broken_sum_is_found():
    """The conservation law can fail."""
    peers = PeerBookings()
    peers.receive(told("x", a=(1, 100)), 0.0)
    peers._totals["a"] = Booked(2, 100)
    with pytest.raises(AssertionError):
        peers.check_integrity()


def test_outbox_gathers_and_empties():
    """Each replica goes out once, and wakes the sender."""
    box = Outbox()
    box.changed("a")
    box.changed("a")
    box.expected(7, "a", [1, 2])
    box.computed(5)
    assert box.wake.is_set()
    box.turns.append(ProgramTurn(7, 1, "a"))
    box.ended.append((6, 2.5))
    assert box.take("x") == (
        {"a"},
        Bookings(
            "x",
            {},
            expected=(Expected(7, "a", pack_keys([1, 2])),),
            computed=(5,),
            turns=(ProgramTurn(7, 1, "a"),),
            ended=((6, 2.5),),
        ),
    )
    assert not box.wake.is_set()
    assert box.take("x") == (set(), Bookings("x", {}))


def test_prompt_that_is_computed_before_it_was_told_is_not_told():
    """Nobody needs to expect what is over; nor what nothing new comes of."""
    box = Outbox()
    box.expected(7, "a", [1, 2])
    box.computed(7)
    box.expected(8, "a", [])
    assert box.take("x") == (set(), Bookings("x", {}))


def test_outbox_is_bounded_while_nobody_takes():
    """While Redis is away the oldest prompts are dropped, and of a long one only the beginning is told."""
    box = Outbox()
    for number in range(MAX_WAITING + 5):
        box.expected(number, "a", range(2 * MAX_EXPECTED_KEYS))
        box.computed(-number - 1)
        box.turns.append(ProgramTurn(number, 1, "a"))
        box.ended.append((number, 1.0))
    _, news = box.take("x")
    assert [one.number for one in (news.expected[0], news.expected[-1])] == [5, MAX_WAITING + 4]
    assert len(news.expected[0].keys) == KEY_BYTES * MAX_EXPECTED_KEYS
    assert len(news.computed) == len(news.turns) == len(news.ended) == MAX_WAITING
