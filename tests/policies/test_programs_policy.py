"""``warm`` with room in KV memory: the same where there is room, and waiting where there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.programs import programs
from policies.types import NoReplicaError, Outlook
from policies.warm import STICKINESS, warm


def with_room(snapshot, room, soon=True):
    """The same, with so much room, for a conversation that comes back soon or does not."""
    return snapshot._replace(outlook=Outlook(np.array(room, dtype=np.float64), soon))


@given(
    cached=st.lists(st.integers(0, 1000), min_size=3, max_size=3),
    queued=st.lists(st.integers(0, 9000), min_size=3, max_size=3),
    room=st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
    known=st.booleans(),
)
def test_it_is_warm_where_memory_suffices(cached, queued, room, known, snapshot_of, request_of):
    """And where it is not known whether it does."""
    snapshot = snapshot_of(cached, queued, running=[1, 1, 1])
    seen = with_room(snapshot, room) if known else snapshot
    ours, other = programs(request_of(), seen), warm(request_of(), snapshot)
    assert (ours.row, ours.reason, ours.waits) == (other.row, other.reason, False)


def test_it_waits_where_every_replica_would_evict_what_is_wanted_again(snapshot_of, request_of):
    """Unless it may wait no longer."""
    snapshot = with_room(snapshot_of([0, 0], running=[3, 3]), [-500, -900])
    assert programs(request_of(), snapshot).waits
    assert not programs(request_of()._replace(may_wait=False), snapshot).waits


def test_what_does_not_come_back_soon_never_waits(snapshot_of, request_of):
    """People's turns take room only while they are under way."""
    snapshot = with_room(snapshot_of([0, 0], running=[3, 3]), [-500, -900], soon=False)
    assert not programs(request_of(), snapshot).waits


def test_an_idle_engine_is_not_kept_waiting(snapshot_of, request_of):
    """Where nothing runs, waiting would not bring room any sooner."""
    decision = programs(request_of(), with_room(snapshot_of([0, 0], running=[3, 0]), [-900, -500]))
    assert (decision.row, decision.waits) == (1, False)


def test_room_elsewhere_is_taken_before_waiting(snapshot_of, request_of):
    """Though another replica is cheaper for the prompt alone."""
    snapshot = with_room(snapshot_of([960, 0], running=[3, 3]), [-2000, 100])
    decision = programs(request_of(), snapshot)
    assert (decision.row, decision.reason, decision.waits) == (1, "room", False)


def test_costs_are_those_of_the_formula(snapshot_of, request_of):
    """What would be evicted counts as computed again, at the price of a lost token."""
    snapshot = with_room(snapshot_of([960, 0], running=[3, 3], pace=[1.0, 2.0]), [-2000, -100])
    costs = programs(request_of(), snapshot).costs - warm(request_of(), snapshot).costs
    assert costs.tolist() == pytest.approx([(1 + STICKINESS) * 2000, (1 + STICKINESS) * 100 * 2])


def test_replicas_that_cannot_be_chosen_do_not_count(snapshot_of, request_of):
    """However much room they have; without any there is no answer."""
    snapshot = with_room(snapshot_of([0, 0], running=[3, 3], eligible=[True, False]), [-500, 900])
    decision = programs(request_of(), snapshot)
    assert (decision.row, decision.waits) == (0, True)
    with pytest.raises(NoReplicaError):
        programs(request_of(), with_room(snapshot_of([0], eligible=[False]), [1]))
