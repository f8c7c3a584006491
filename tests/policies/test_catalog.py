"""What every policy in the catalog keeps to, whatever it prefers."""

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from policies.catalog import DEFAULT_POLICY, POLICIES
from policies.types import NoReplicaError

tokens = st.integers(0, 5) | st.integers(0, 90_000)
replica = st.tuples(tokens, tokens, st.integers(0, 300), tokens)
"""Cached, queued, running, active."""
fleets = st.lists(st.tuples(st.booleans(), replica), min_size=1, max_size=10)
keys = st.integers(0, 2**64 - 1)
every_policy = pytest.mark.parametrize("name", sorted(POLICIES))


@pytest.fixture(scope="session")
def case_of(snapshot_of, request_of):
    """Makes a request and a snapshot in which, as in a fleet's, no replica holds all of the prompt."""

    def build(fleet, key, number=0):
        eligible, rows = zip(*fleet, strict=True)
        cached, queued, running, active = zip(*rows, strict=True)
        prompt = max(cached) + 1
        return (
            request_of(prompt, prompt // 3, key),
            snapshot_of(cached, queued, running, active, eligible, number),
        )

    return build


def decisions(request, snapshot):
    """What each policy answers, in turn, in a form that can be compared."""
    for name, policy in POLICIES.items():
        note(name)
        decision = policy(request, snapshot)
        yield decision.row, decision.reason, decision.costs.tobytes()


@given(fleets, keys)
def test_only_eligible_replicas_are_chosen(case_of, fleet, key):
    """The choice is eligible, its cost is finite, others cost infinity; nobody eligible is an error."""
    request, snapshot = case_of(fleet, key)
    for name, policy in POLICIES.items():
        note(name)
        if not snapshot.eligible.any():
            with pytest.raises(NoReplicaError):
                policy(request, snapshot)
            continue
        decision = policy(request, snapshot)
        assert snapshot.eligible[decision.row]
        assert list(np.isfinite(decision.costs)) == list(snapshot.eligible)
        assert decision.costs.dtype == np.float64
        assert decision.reason


@given(fleets, keys, st.integers(0, 1000))
def test_policies_are_pure(case_of, fleet, key, number):
    """The same input gives the same answer, and is only read: the snapshot's arrays refuse to be changed."""
    fleet = [(True, row) for _, row in fleet]
    answers, again = (decisions(*case_of(fleet, key, number)) for _ in range(2))
    assert all(one == other for one, other in zip(answers, again, strict=True))


@given(fleets, st.lists(replica, min_size=10, max_size=10), keys)
def test_replicas_that_cannot_be_chosen_do_not_count(case_of, fleet, others, key):
    """What an ineligible replica holds or has to do changes nothing."""
    fleet = [(True, fleet[0][1]), *fleet[1:]]
    changed = [
        (eligible, row if eligible else other) for (eligible, row), other in zip(fleet, others, strict=False)
    ]
    request = max((case_of(rows, key)[0] for rows in (fleet, changed)), key=lambda of: of.prompt_tokens)
    answers, again = (decisions(request, case_of(rows, key)[1]) for rows in (fleet, changed))
    assert all(one == other for one, other in zip(answers, again, strict=True))


@every_policy
def test_an_empty_fleet_and_an_empty_prompt(name, snapshot_of, request_of):
    """No replicas at all are an error; a prompt without tokens is not."""
    with pytest.raises(NoReplicaError):
        POLICIES[name](request_of(), snapshot_of([]))
    assert POLICIES[name](request_of(prompt=0), snapshot_of([0, 0])).row in (0, 1)


@every_policy
def test_idle_replicas_share_new_conversations(name, snapshot_of, request_of):
    """No policy sends everything that is new to the first replica, even when all are idle."""
    rows = {
        POLICIES[name](request_of(key=key * 0x9E3779B97F4A7C15 % 2**64), snapshot_of([0] * 4, number=key)).row
        for key in range(60)
    }
    assert rows == {0, 1, 2, 3}


def test_default_is_in_the_catalog_and_the_catalog_cannot_be_changed():
    """The default policy can be found by its name."""
    assert DEFAULT_POLICY in POLICIES
    with pytest.raises(TypeError):
        POLICIES["mine"] = POLICIES["warm"]  # type: ignore[index]
