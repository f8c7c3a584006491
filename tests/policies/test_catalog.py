"""What every policy in the catalog keeps to, whatever it prefers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalog import DEFAULT_POLICY, POLICIES
from policies.types import NoReplicaError, Request, Snapshot

rows = st.lists(
    st.tuples(st.booleans(), st.integers(0, 4096), st.integers(0, 50_000), st.integers(0, 300)),
    min_size=1,
    max_size=10,
)
policies = st.sampled_from(sorted(POLICIES))


def build(described, number=0):
    """A snapshot from drawn rows."""
    return Snapshot(
        replicas=tuple(f"replica-{row}" for row in range(len(described))),
        eligible=np.array([row[0] for row in described], dtype=np.bool_),
        cached_tokens=np.array([row[1] for row in described], dtype=np.int64),
        queued_tokens=np.array([row[2] for row in described], dtype=np.int64),
        running=np.array([row[3] for row in described], dtype=np.int64),
        number=number,
    )


def arrays(snapshot):
    """Bytes of everything that a policy could change."""
    return [
        array.tobytes()
        for array in (
            snapshot.eligible,
            snapshot.cached_tokens,
            snapshot.queued_tokens,
            snapshot.running,
        )
    ]


@given(policies, rows, st.integers(4097, 10_000), st.integers(0, 4000), st.integers(0, 2**64 - 1))
def test_only_eligible_replicas_are_chosen(name, described, prompt, opening, key):
    """The choice is eligible, its cost is finite, others cost infinity; nobody eligible is an error."""
    request, snapshot = Request(prompt, opening, key), build(described)
    if not snapshot.eligible.any():
        with pytest.raises(NoReplicaError):
            POLICIES[name](request, snapshot)
        return
    decision = POLICIES[name](request, snapshot)
    assert snapshot.eligible[decision.row]
    assert list(np.isfinite(decision.costs)) == list(snapshot.eligible)
    assert decision.reason


@given(policies, rows, st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_policies_are_pure(name, described, key, number):
    """The same input gives the same answer, and is left as it was."""
    described = [(True, *row[1:]) for row in described]
    request, snapshot = Request(5000, 100, key), build(described, number)
    before = arrays(snapshot)
    first = POLICIES[name](request, snapshot)
    assert arrays(snapshot) == before
    second = POLICIES[name](request, build(described, number))
    assert (first.row, first.reason, first.costs.tobytes()) == (
        second.row,
        second.reason,
        second.costs.tobytes(),
    )


def test_default_is_in_the_catalog_and_the_catalog_cannot_be_changed():
    """The default policy can be found by its name."""
    assert DEFAULT_POLICY in POLICIES
    with pytest.raises(TypeError):
        POLICIES["mine"] = POLICIES["warm"]  # type: ignore[index]
