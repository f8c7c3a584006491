"""Blocks expected because of other routers: they count while a prompt is on its way, and never for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet import peers
from cluster.fleet.peers import EXPECTATION_GRACE_SECONDS, EXPECTATION_LIMIT_SECONDS, PeerExpectations
from cluster.fleet.replicas import Replica
from cluster.index.prefix_index import PrefixIndex
from cluster.protocol.block_keys import pack_keys
from cluster.protocol.wire import Bookings, Expected, Lease, ReplicaState


class Index:
    """An index with two replicas, and what is expected there because of others."""

    def __init__(self):
        self.index = PrefixIndex()
        self.slots = {"a": self.index.add_replica(), "b": self.index.add_replica()}
        self.replicas = {
            name: Replica(Lease(replica=name, url="", state=ReplicaState.READY, model="m"), 1, slot)
            for name, slot in self.slots.items()
        }
        self.expectations = PeerExpectations(self.index)

    def receive(self, router="x", sent=(), computed=(), now=0.0):
        """A message: prompts sent as (number, replica, keys), and numbers of those computed."""
        expected = tuple(Expected(number, replica, pack_keys(keys)) for number, replica, keys in sent)
        bookings = Bookings(router, {}, expected=expected, computed=tuple(computed))
        self.expectations.receive(bookings, self.replicas, now)

    def matched(self, keys, now):
        """Leading blocks that each replica is believed to hold."""
        self.expectations.expire(now)
        found = self.index.matched_blocks(keys)
        return {name: found[slot] for name, slot in self.slots.items()}


@pytest.fixture
def index():
    """Nothing is expected yet."""
    return Index()


def test_prompt_of_another_router_counts_until_it_is_computed_and_events_had_time(index):
    """From the message on; after the first token for a moment more, while events are on their way."""
    index.receive(sent=[(1, "a", [1, 2, 3])])
    assert index.matched([1, 2, 3, 4], 10.0) == {"a": 3, "b": 0}
    index.receive(computed=[1], now=10.0)
    assert index.matched([1, 2, 3], 10.0 + 0.9 * EXPECTATION_GRACE_SECONDS)["a"] == 3
    assert index.matched([1, 2, 3], 10.0 + EXPECTATION_GRACE_SECONDS)["a"] == 0


def test_lost_message_about_the_end_does_not_last(index):
    """Nobody said that it was computed: it is forgotten all the same."""
    index.receive(sent=[(1, "a", [1])])
    assert index.matched([1], 0.9 * EXPECTATION_LIMIT_SECONDS)["a"] == 1
    assert index.matched([1], EXPECTATION_LIMIT_SECONDS)["a"] == 0


def test_silent_router_is_forgotten_alone(index):
    """What a dead router had sent counts no longer; another router's prompts do, under the same numbers."""
    index.receive("x", sent=[(1, "a", [1]), (2, "a", [2])], computed=[2])
    index.receive("y", sent=[(1, "b", [1])])
    index.expectations.forget("x")
    assert index.matched([1], 0.0) == {"a": 0, "b": 1}
    assert index.matched([2], 0.0) == {"a": 0, "b": 0}


def test_repeated_and_unknown_messages_change_nothing(index):
    """A message that comes twice, a replica that is not known here, an end without a beginning."""
    index.receive(sent=[(1, "a", [1]), (1, "a", [1]), (2, "unknown", [1])])
    index.receive(sent=[(1, "a", [1])], computed=[99])
    index.receive(computed=[1])
    index.receive(computed=[1])
    assert index.matched([1], EXPECTATION_GRACE_SECONDS)["a"] == 0


def test_number_is_bounded(index, monkeypatch):
    """Beyond the bound the oldest prompts are forgotten."""
    monkeypatch.setattr(peers, "MAX_EXPECTATIONS", 2)
    index.receive(sent=[(number, "a", [number]) for number in range(3)])
    assert [index.matched([number], 0.0)["a"] for number in range(3)] == [0, 1, 1]


def test_replica_that_left_takes_its_expectations_along(index):
    """Ending them later does no harm, also when its slot has been given to another."""
    index.receive(sent=[(1, "a", [1])])
    index.index.remove_replica(index.slots["a"])
    index.slots["c"] = index.index.add_replica()
    index.receive(computed=[1])
    assert index.matched([1], 100.0) == {"a": 0, "b": 0, "c": 0}
    index.index.check_integrity()


@given(
    st.lists(
        st.tuples(
            st.sampled_from("xy"),
            st.integers(0, 3),
            st.sampled_from(["a", "b", "unknown", None]),
            st.lists(st.integers(1, 4), max_size=3),
            st.floats(0, 5),
        ),
        max_size=40,
    )
)
def test_nothing_stays(steps):
    """Whatever was said, lost or repeated: the index stays consistent, and in the end expects nothing."""
    index, now = Index(), 0.0
    for router, number, replica, keys, pause in steps:
        now += pause
        index.expectations.expire(now)
        if replica is None:
            index.receive(router, computed=[number], now=now)
        else:
            index.receive(router, sent=[(number, replica, keys)], now=now)
        index.index.check_integrity()
    index.expectations.expire(now + EXPECTATION_LIMIT_SECONDS)
    assert not index.index._expected.starts
