"""Policies that know nothing of caches."""

from collections import Counter

import numpy as np
import pytest

from policies.baselines import consistent_hash, least_load, power_of_two, round_robin
from policies.ring import walk


def test_round_robin_takes_each_replica_in_turn(snapshot_of, request_of):
    """Numbers that follow each other give replicas that follow each other."""
    rows = [round_robin(request_of(), snapshot_of([0] * 3, number=number)).row for number in range(6)]
    assert rows == [0, 1, 2, 0, 1, 2]


def test_round_robin_leaves_out_ineligible(snapshot_of, request_of):
    """The turn goes round among those that can be chosen."""
    rows = [
        round_robin(request_of(), snapshot_of([0] * 3, eligible=[True, False, True], number=number)).row
        for number in range(4)
    ]
    assert rows == [0, 2, 0, 2]


def test_least_load_counts_queued_tokens_and_running_requests(snapshot_of, request_of):
    """A long queue of prompt tokens weighs more than a few running requests."""
    decision = least_load(request_of(), snapshot_of([0] * 3, queued=[5000, 0, 0], running=[0, 2, 3]))
    assert decision.row == 1
    assert list(decision.costs) == [5000, 128, 192]


def test_least_load_breaks_ties_by_the_ring(snapshot_of, request_of):
    """Idle replicas share conversations, and one conversation keeps its place."""
    idle = snapshot_of([0] * 4)
    rows = Counter(least_load(request_of(key=key), idle).row for key in range(400))
    assert min(rows[row] for row in range(4)) > 40
    assert least_load(request_of(key=5), idle).row == next(walk(idle.replicas, 5))


def test_power_of_two_takes_the_less_loaded_of_two(snapshot_of, request_of):
    """Of 5 replicas the idlest is in 2 of 5 draws, the busiest never wins, and the others share the rest."""
    snapshot = snapshot_of([0] * 5, queued=[400, 300, 200, 100, 0])
    rows = Counter(power_of_two(request_of(key=key), snapshot).row for key in range(2000))
    assert {row: round(count / 200) for row, count in rows.items()} == {1: 1, 2: 2, 3: 3, 4: 4}


def test_power_of_two_draws_anew_for_each_decision(snapshot_of, request_of):
    """A conversation does not keep its place: its next request meets another pair."""
    rows = {power_of_two(request_of(), snapshot_of([0] * 4, number=number)).row for number in range(40)}
    assert len(rows) > 2


def test_power_of_two_knows_small_fleets(snapshot_of, request_of):
    """One replica is taken; of two both are always drawn; others are never drawn."""
    assert power_of_two(request_of(), snapshot_of([0] * 3, eligible=[False, True, False])).row == 1
    for key in range(20):
        two = snapshot_of([0] * 3, queued=[0, 2, 1], eligible=[False, True, True])
        assert power_of_two(request_of(key=key), two).row == 2


def test_consistent_hash_keeps_a_conversation_in_place(snapshot_of, request_of):
    """Load within the bound changes nothing."""
    idle, busy = snapshot_of([0] * 4), snapshot_of([0] * 4, running=[20, 21, 20, 19])
    for key in range(50):
        assert (
            consistent_hash(request_of(prompt=10, key=key), idle).row
            == consistent_hash(request_of(prompt=10, key=key), busy).row
        )


def test_consistent_hash_walks_past_an_overloaded_replica(snapshot_of, request_of):
    """A conversation whose replica is over the bound goes to the next one on the ring with room."""
    idle = snapshot_of([0] * 4)
    for key in range(20):
        first, second, *_ = walk(idle.replicas, key)
        queued = [1000] * 4
        queued[first] = 9000
        decision = consistent_hash(request_of(prompt=100, key=key), snapshot_of([0] * 4, queued=queued))
        assert decision.row == second


@pytest.mark.parametrize("policy", [least_load, consistent_hash, power_of_two, round_robin])
def test_costs_of_ineligible_are_infinite(policy, snapshot_of, request_of):
    """What could not be chosen is marked in the explanation."""
    costs = policy(request_of(), snapshot_of([0] * 3, eligible=[False, True, False])).costs
    assert list(np.isinf(costs)) == [True, False, True]
