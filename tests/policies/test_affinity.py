"""Other routers' rules that follow the cache first. Numbers are those of their projects."""

from collections import Counter

import pytest

from policies.affinity import (
    aibrix_prefix_cache,
    llm_d,
    longest_prefix,
    preble,
    production_stack_kv_aware,
    ray_serve_prefix_aware,
    smg_cache_aware,
    vllm_router_cache_aware,
)
from policies.ring import walk


def choice(policy, request, snapshot):
    """Row and reason of a decision."""
    decision = policy(request, snapshot)
    return decision.row, decision.reason


def test_longest_prefix_follows_the_cache_whatever_the_load(snapshot_of, request_of):
    """One block more outweighs any queue; of equal matches the least loaded is taken."""
    swamped = snapshot_of([32, 48, 0], queued=[0, 90_000, 0], running=[0, 200, 0])
    assert choice(longest_prefix, request_of(), swamped) == (1, "warm")
    for key in range(10):
        equal = snapshot_of([48, 48, 0], queued=[1, 0, 0])
        assert choice(longest_prefix, request_of(key=key), equal) == (1, "warm")
        cold = snapshot_of([0, 0], queued=[1, 0])
        assert choice(longest_prefix, request_of(key=key), cold) == (1, "cold")


@pytest.mark.parametrize("policy", [vllm_router_cache_aware, smg_cache_aware])
@pytest.mark.parametrize(
    ("running", "expected"),
    [
        ([64, 0, 9], (0, "warm")),  # 64 apart is not over 64
        ([65, 0, 9], (1, "diverted")),
        ([300, 200, 250], (0, "warm")),  # 1.5 times as many is not over 1.5 times as many
        ([301, 200, 250], (1, "diverted")),
    ],
)
def test_balance_thresholds_need_both_difference_and_ratio(
    policy, running, expected, snapshot_of, request_of
):
    """The cache is left for fewest requests when 64 and 1.5 are both exceeded, and only then."""
    assert choice(policy, request_of(), snapshot_of([960, 0, 0], running=running)) == expected


def test_vllm_router_wants_a_match_of_three_tenths(snapshot_of, request_of):
    """A match of 30% of the prompt is not enough, one token more is."""
    running = [5, 1, 3]
    at, over = snapshot_of([300, 0, 0], running=running), snapshot_of([301, 0, 0], running=running)
    assert choice(vllm_router_cache_aware, request_of(), at) == (1, "cold")
    assert choice(vllm_router_cache_aware, request_of(), over) == (0, "warm")


def test_smg_takes_any_match(snapshot_of, request_of):
    """With KV events one block is enough, equal matches go to fewest requests, and so does no match."""
    assert choice(smg_cache_aware, request_of(), snapshot_of([16, 0], running=[5, 1])) == (0, "warm")
    assert choice(smg_cache_aware, request_of(), snapshot_of([16, 16, 0], running=[5, 1, 0])) == (1, "warm")
    assert choice(smg_cache_aware, request_of(), snapshot_of([0, 0], running=[5, 1])) == (1, "cold")


def test_ray_serve_wants_a_match_of_a_tenth_and_no_balance(snapshot_of, request_of):
    """A match of 10% of the prompt is followed whatever the load; one token less goes to fewest requests."""
    running = [500, 1, 3]
    at, under = snapshot_of([100, 0, 0], running=running), snapshot_of([99, 0, 0], running=running)
    assert choice(ray_serve_prefix_aware, request_of(), at) == (0, "warm")
    assert choice(ray_serve_prefix_aware, request_of(), under) == (1, "cold")
    equal = snapshot_of([160, 160, 0], running=[5, 1, 0])
    assert choice(ray_serve_prefix_aware, request_of(), equal) == (1, "warm")


def test_aibrix_passes_over_holders_that_are_busier_than_usual(snapshot_of, request_of):
    """Over mean + standard deviation (here 4.25 + 2.5) the next longest match is taken, if there is one."""
    running = [8, 3, 3, 3]
    assert choice(aibrix_prefix_cache, request_of(), snapshot_of([960, 480, 0, 0], running=running)) == (
        1,
        "warm",
    )
    row, reason = choice(aibrix_prefix_cache, request_of(), snapshot_of([960, 0, 0, 0], running=running))
    assert row != 0
    assert reason == "diverted"
    calmer = snapshot_of([960, 480, 0, 0], running=[6, 6, 3, 3])
    assert choice(aibrix_prefix_cache, request_of(), calmer) == (0, "warm")


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        ([8, 0, 0], (1, "warm")),  # 8 apart, and over 2 x (0 + 1)
        ([15, 9, 9], (1, "warm")),  # only 6 apart, but the holder is over mean + standard deviation
        ([20, 10, 9], (1, "warm")),  # 11 apart, but not over 2 x (9.5 + 1)
        ([5, 3, 1], (0, "warm")),  # not over mean + standard deviation
        ([1, 0, 9], (1, "warm")),  # the longest match is not on the idlest
    ],
)
def test_aibrix_keeps_to_the_idlest_when_load_is_skewed(running, expected, snapshot_of, request_of):
    """A gap of 8 requests, and twice the others' mean + 1, leave only the idlest replicas."""
    assert choice(aibrix_prefix_cache, request_of(), snapshot_of([960, 480, 0], running=running)) == expected


def test_aibrix_needs_no_factor_for_two_replicas(snapshot_of, request_of):
    """Of two, a gap of 8 requests is enough; without any match fewest requests decide."""
    assert choice(aibrix_prefix_cache, request_of(), snapshot_of([960, 0], running=[28, 20])) == (
        1,
        "diverted",
    )
    assert choice(aibrix_prefix_cache, request_of(), snapshot_of([960, 0], running=[24, 24])) == (0, "warm")
    assert choice(aibrix_prefix_cache, request_of(), snapshot_of([0, 0], running=[2, 1])) == (1, "cold")


def test_production_stack_goes_by_the_ring_unless_2000_tokens_are_left(snapshot_of, request_of):
    """A match that leaves 2,000 tokens is followed, one that leaves more is not, and load never counts."""
    request = request_of(prompt=5000)
    enough = snapshot_of([3000, 0, 0], running=[200, 0, 0])
    assert choice(production_stack_kv_aware, request, enough) == (0, "warm")
    for prompt, cached in ((5000, [2999, 0, 0]), (1000, [0, 0, 0])):
        snapshot = snapshot_of(cached, running=[200, 0, 0])
        for key in range(20):
            expected = next(walk(snapshot.replicas, key)), "cold"
            assert choice(production_stack_kv_aware, request_of(prompt, key=key), snapshot) == expected


def test_llm_d_sticks_to_holders_of_four_fifths(snapshot_of, request_of):
    """Among them the least queued and uncached tokens win; below 80% a match only saves its own tokens."""
    assert choice(llm_d, request_of(), snapshot_of([800, 960, 0], queued=[900, 1100, 0])) == (0, "warm")
    assert choice(llm_d, request_of(), snapshot_of([799, 0, 0], queued=[800, 0, 0])) == (
        next(row for row in walk(("replica-0", "replica-1", "replica-2"), 7) if row),
        "cold",
    )
    assert choice(llm_d, request_of(), snapshot_of([799, 0, 0], queued=[798, 0, 0])) == (0, "cold")


def test_llm_d_lets_go_when_holders_are_18_seconds_behind(snapshot_of, request_of):
    """At 15,928 tokens/s that is 286,704 queued tokens more than elsewhere."""
    at, over = (snapshot_of([960, 0], queued=[286_704 + more, 0]) for more in (0, 1))
    assert choice(llm_d, request_of(), at) == (0, "warm")
    assert choice(llm_d, request_of(), over) == (1, "diverted")
    alone = snapshot_of([960, 0], queued=[900_000, 0], eligible=[True, False])
    assert choice(llm_d, request_of(), alone) == (0, "warm")
    everywhere = snapshot_of([960, 960], queued=[900_000, 800_000])
    assert choice(llm_d, request_of(), everywhere) == (1, "warm")


def test_preble_exploits_a_match_longer_than_the_rest(snapshot_of, request_of):
    """Half of the prompt is not longer than the other half; exploring counts load and uncached tokens."""
    queued = [150, 0]
    assert choice(preble, request_of(), snapshot_of([501, 0], queued=queued)) == (0, "warm")
    assert choice(preble, request_of(), snapshot_of([500, 0], queued=queued)) == (0, "cold")
    assert choice(preble, request_of(), snapshot_of([100, 0], queued=queued)) == (1, "cold")
    assert choice(preble, request_of(), snapshot_of([900, 900], queued=queued)) == (1, "warm")


def test_preble_passes_on_what_costs_half_as_much_again(snapshot_of, request_of):
    """A holder may cost 1.5 times the least cost, here 1,000 tokens, and no more."""
    assert choice(preble, request_of(), snapshot_of([900, 0], queued=[1400, 0])) == (0, "warm")
    assert choice(preble, request_of(), snapshot_of([900, 0], queued=[1401, 0])) == (1, "diverted")


def test_equal_holders_share_conversations(snapshot_of, request_of):
    """Where a rule sees no difference, the ring spreads conversations and keeps each in its place."""
    for policy in (
        longest_prefix,
        vllm_router_cache_aware,
        smg_cache_aware,
        aibrix_prefix_cache,
        llm_d,
        preble,
    ):
        snapshot = snapshot_of([960, 960, 960, 0])
        rows = Counter(policy(request_of(key=key), snapshot).row for key in range(60))
        assert set(rows) == {0, 1, 2}
        again = Counter(policy(request_of(key=key), snapshot).row for key in range(60))
        assert rows == again
