"""Snapshots: what a decision sees of replicas, of this router's bookings and of other routers'."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.peers import SILENCE_SECONDS
from cluster.protocol.wire import Booked, Bookings, Load, ReplicaState
from tests.cluster.fleets import cached, fleet_of, lease


def test_policy_cannot_change_what_it_sees():
    """A snapshot is a copy, and refuses to be written."""
    fleet = fleet_of(lease())
    snapshot = fleet.snapshot(fleet.models["m"], [1], 100, 0.0)
    fleet.book(fleet.replicas["a"], [1], 100)
    assert (snapshot.running.tolist(), snapshot.cached_tokens.tolist()) == ([0], [0])
    for name in ("eligible", "cached_tokens", "queued_tokens", "running", "active_tokens"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(snapshot, name)[0] = 1


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("abc"), st.integers(0, 3)), max_size=20))
def test_snapshot_shows_what_other_routers_have_booked(messages):
    """Also of replicas that come later, and no longer once a router has fallen silent."""
    fleet, now, model = fleet_of(lease("a"), lease("b")), 0.0, {}
    for router, replica_id, running in messages:
        now += 0.1
        fleet.receive(Bookings(router, {replica_id: Booked(running, 10 * running, 20 * running)}), now)
        model[router, replica_id] = running
        fleet.check_integrity()
    fleet.admit(lease("c"), 1, Load())
    for seconds, expected in ((0.0, model), (SILENCE_SECONDS + 2.0, {})):
        snapshot = fleet.snapshot(fleet.models["m"], (), 10, now + seconds)
        sums = [sum(n for (_, name), n in expected.items() if name == replica) for replica in "abc"]
        assert snapshot.running.tolist() == sums
        assert snapshot.queued_tokens.tolist() == [10 * booked for booked in sums]
        assert snapshot.active_tokens.tolist() == [20 * booked for booked in sums]


def test_home_is_the_row_of_a_conversations_last_replica():
    """It is unknown before the first booking, for other models, and when the replica is gone or came anew."""
    fleet = fleet_of(lease("a"), lease("b"), lease("c", model="other"))

    def last_replica(name="m", key=9):
        return fleet.snapshot(fleet.models[name], (), 10, 0.0, conversation_key=key).last_replica

    assert last_replica() == -1
    fleet.book(fleet.replicas["b"], (), 10, conversation_key=9)
    assert (last_replica(), last_replica("other"), last_replica(key=8)) == (1, -1, -1)
    fleet.dismiss("a")
    assert last_replica() == 0
    fleet.admit(lease("a"), 1, Load())
    fleet.dismiss("b")
    assert last_replica() == -1
    fleet.admit(lease("b"), 1, Load())
    assert last_replica() == -1


@given(st.integers(0, 200), st.integers(0, 20), st.integers(0, 20))
def test_cached_tokens_leave_the_last_token_to_compute(prompt_tokens, num_owned, num_expected):
    """A hit is whole blocks, never negative, and at most one token less than the prompt."""
    fleet = fleet_of(lease("a"))
    fleet.apply(fleet.replicas["a"], range(num_owned), (), cleared=False)
    fleet.book(fleet.replicas["a"], range(num_expected), 0)
    keys = range(prompt_tokens // 16)
    [tokens] = cached(fleet, keys, prompt_tokens).values()
    most = max(prompt_tokens - 1, 0) // 16 * 16
    assert tokens == min(max(num_owned, num_expected) * 16, most)


@pytest.mark.parametrize("state", list(ReplicaState))
def test_only_ready_replicas_are_eligible(state):
    """Starting, draining and unreachable replicas are seen, not chosen."""
    fleet = fleet_of(lease(state=state))
    model = fleet.models["m"]
    ready = state is ReplicaState.READY
    assert fleet.snapshot(model, (), 10, 0.0).eligible.tolist() == [ready]
    assert (model.ready, model.num_ready) == (ready, int(ready))


def test_failed_and_excluded_replicas_are_not_eligible():
    """A replica that failed is left alone until its time is over, or its lease says something new."""
    fleet = fleet_of(lease("a"), lease("b"))
    model = fleet.models["m"]
    fleet.replicas["a"].failed_until = 5.0
    assert fleet.snapshot(model, (), 10, 4.9).eligible.tolist() == [False, True]
    assert fleet.snapshot(model, (), 10, 5.0).eligible.tolist() == [True, True]
    assert fleet.snapshot(model, (), 10, 5.0, {"b": None}).eligible.tolist() == [True, False]
    fleet.admit(lease("a"), 2, Load())
    assert fleet.snapshot(fleet.models["m"], (), 10, 0.0).eligible.tolist() == [True, True]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 6))
def test_replicas_are_eligible_for_what_fits_their_context(limits, tokens):
    """A replica that names no limit takes everything, as all do where all have the same limit: then what
    fits none of them has been refused before.
    """
    fleet = fleet_of(*(lease(f"r{number}", max_model_len=limit) for number, limit in enumerate(limits)))
    model = fleet.models["m"]
    fitting = [limit == 0 or tokens <= limit for limit in limits]
    seen = fleet.snapshot(model, (), 10, 0.0, context_tokens=tokens).eligible.tolist()
    assert seen == (fitting if len(set(limits)) > 1 else [True] * len(limits))
    assert model.fits(tokens) == any(fitting)
    assert model.max_model_len == max(limits)


def test_load_is_the_larger_of_booked_and_reported():
    """Other routers' requests show in the engine's gauges, our newest only in our bookings."""
    fleet = fleet_of(lease())
    fleet.book(fleet.replicas["a"], (), 70)
    snapshot = fleet.snapshot(fleet.models["m"], (), 10, 0.0)
    assert (snapshot.running.tolist(), snapshot.queued_tokens.tolist()) == ([1], [70])
    assert snapshot.active_tokens.tolist() == [70]
    fleet.admit(lease(), 1, Load(running=3, waiting=4))
    assert fleet.snapshot(fleet.models["m"], (), 10, 0.0).running.tolist() == [7]


def test_decisions_are_numbered_per_model():
    """A rotating policy meets every replica of a model, whatever other models are asked for in between."""
    fleet = fleet_of(lease("a"), lease("b", model="other"))
    numbers = []
    for _ in range(3):
        numbers.append(fleet.snapshot(fleet.models["m"], (), 10, 0.0).number)
        fleet.book(fleet.replicas["a"], (), 1)
        fleet.book(fleet.replicas["b"], (), 1)
    assert all(after == before + 1 for before, after in pairwise(numbers))


def test_replica_that_stopped_publishing_has_an_unknown_cache():
    """What its events said once cannot be believed any more; with events again it counts again."""
    fleet = fleet_of(lease("a"), lease("b"))
    fleet.apply(fleet.replicas["a"], [1, 2, 3], (), cleared=False)
    assert cached(fleet, [1, 2, 3], 100) == {"a": 48, "b": 0}
    fleet.admit(lease("a", publishes_events=False), 1, Load())
    assert cached(fleet, [1, 2, 3], 100) == {"a": 0, "b": 0}
    fleet.admit(lease("a"), 1, Load())
    assert cached(fleet, [1, 2, 3], 100) == {"a": 48, "b": 0}
