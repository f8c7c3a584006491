"""The default policy: conversations stay, openings and what is hot spread, ties go by the ring."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.branches import Branches
from policies.baselines import consistent_hash
from policies.choice import REQUEST_TOKENS
from policies.ring import walk
from policies.types import NoReplicaError
from policies.warm import (
    CALM_STICKINESS,
    DELAY,
    POPULAR_SHARE,
    QUEUED_TOKENS,
    STICKINESS,
    TIE_TOKENS,
    warm,
)


def test_own_history_stays_against_moderate_load(snapshot_of, request_of):
    """A turn goes to the replica of the turn before, though that one has more to do."""
    snapshot = snapshot_of([0, 1600, 0], queued=[0, 4000, 0], running=[0, 20, 1])
    decision = warm(request_of(prompt=1700, opening=500), snapshot)
    assert (decision.row, decision.reason) == (1, "warm")


def test_own_history_moves_away_from_a_replica_that_is_swamped(snapshot_of, request_of):
    """Past a point waiting costs more than computing the history again, and the reason says so."""
    snapshot = snapshot_of([0, 1600, 0], queued=[0, 80_000, 0])
    decision = warm(request_of(prompt=1700, opening=500), snapshot)
    assert decision.row != 1
    assert decision.reason == "diverted"


def test_shared_opening_attracts_while_its_holder_is_idle(snapshot_of, request_of):
    """Of idle replicas, the one that holds the system prompt is cheapest."""
    rows = {
        warm(request_of(prompt=1100, opening=1000, key=key), snapshot_of([992, 0, 0])).row
        for key in range(50)
    }
    assert rows == {0}


def test_shared_opening_spreads_when_queueing_costs_more_than_computing(snapshot_of, request_of):
    """At the edge of being hot an opening costs what computing it costs, no more."""
    edge = POPULAR_SHARE / 3
    fits = snapshot_of([992, 0, 0], queued=[992 - TIE_TOKENS - 1, 0, 0])
    over = snapshot_of([992, 0, 0], queued=[992 + TIE_TOKENS + 1, 0, 0])
    request = request_of(prompt=1100, opening=1000)
    assert warm(request, fits._replace(share=edge)).row == 0
    decision = warm(request, over._replace(share=edge))
    assert decision.row != 0
    assert decision.reason == "diverted"


def test_what_everybody_uses_is_copied_before_its_holder_is_busy(snapshot_of, request_of):
    """When all prompts begin with it, a copy costs the first one of many little more than nothing."""
    hot = snapshot_of([992, 0, 0], queued=[400, 0, 0])._replace(share=0.9)
    assert warm(request_of(prompt=1100, opening=1000), hot).row != 0


@given(
    replicas=st.lists(
        st.tuples(
            st.integers(0, 62), st.integers(0, 9000), st.integers(0, 40), st.booleans(), st.floats(0.25, 4)
        ),
        min_size=1,
        max_size=9,
    ),
    opening=st.integers(0, 1000),
    share=st.floats(0, 1),
)
def test_costs_are_those_of_the_formula(replicas, opening, share, snapshot_of, request_of):
    """What each replica costs, computed one by one as the module's first lines say."""
    blocks, queued, running, eligible, pace = zip(*replicas, strict=True)
    held = [16 * count for count in blocks]
    snapshot = snapshot_of(held, queued, running, eligible=eligible, pace=pace)._replace(share=share)
    request = request_of(prompt=1000, opening=opening)
    if not any(eligible):
        with pytest.raises(NoReplicaError):
            warm(request, snapshot)
        return
    most = max(tokens for tokens, may in zip(held, eligible, strict=True) if may)
    popularity = share * sum(eligible) / POPULAR_SHARE
    mean_queue = np.mean([queue for queue, may in zip(queued, eligible, strict=True) if may])
    waiting = mean_queue / QUEUED_TOKENS
    price = min(STICKINESS, CALM_STICKINESS + waiting) * (1 - popularity)
    costs = []
    for tokens, queue, requests, may, slowness in zip(held, queued, running, eligible, pace, strict=True):
        lost = most - (max(tokens, opening) if most > opening else tokens)
        if popularity >= 1:
            price = 1 / popularity - 1 + min(DELAY * queue / QUEUED_TOKENS, waiting)
        work = queue + REQUEST_TOKENS * requests + 1000 - tokens + price * lost
        costs.append(work * slowness if may else math.inf)
    decision = warm(request, snapshot)
    assert decision.costs.tolist() == pytest.approx(costs)
    assert costs[decision.row] <= min(costs) + TIE_TOKENS + 1e-6


def test_what_everybody_uses_is_copied_where_nobody_waits(snapshot_of, request_of):
    """An idle replica gets a copy; between busy ones the holder is preferred until its queue is longer by
    more than the prompt takes."""
    popular = {"share": 1.0}
    idle = snapshot_of([992, 0, 0], queued=[4000, 0, 0])._replace(**popular)
    busy = snapshot_of([992, 0, 0], queued=[4000, 3000, 3000])._replace(**popular)
    assert warm(request_of(prompt=1100), idle).row != 0
    assert warm(request_of(prompt=1100), busy).row == 0


def test_a_rare_opening_stays_with_its_holder(snapshot_of, request_of):
    """What hardly anybody begins with is not copied because of a short queue."""
    rare = snapshot_of([992, 0, 0], queued=[4000, 0, 0])._replace(share=POPULAR_SHARE / 300)
    assert warm(request_of(prompt=1100, opening=1000), rare).row == 0


@pytest.mark.parametrize("others_before", [0, 5_000])
def test_new_conversations_with_one_opening_do_not_herd(others_before, snapshot_of, request_of):
    """40 conversations that start at once with one system prompt end up on all four replicas, also when the
    router has seen many others before."""
    cached, queued, running, branches = [992, 0, 0, 0], [0] * 4, [0] * 4, Branches()
    for number in range(others_before):
        branches.add(1_000 + number % 100)
    for key in range(40):
        snapshot = snapshot_of(cached, queued, running)._replace(share=branches.share(1))
        row = warm(request_of(1100, 1000, key), snapshot).row
        branches.add(1)
        queued[row] += 1100 - cached[row]
        running[row] += 1
        cached[row] = 992
    assert min(running) >= 5


def test_cold_conversations_spread_evenly(snapshot_of, request_of):
    """What nobody holds goes where there is least to do: after 400 prompts, all are within a quarter."""
    queued, counts = [0] * 8, Counter()
    for key in range(400):
        decision = warm(request_of(1500, 0, key * 0x9E3779B97F4A7C15 % 2**64), snapshot_of([0] * 8, queued))
        assert decision.reason == "cold"
        queued[decision.row] += 1500
        counts[decision.row] += 1
    assert max(counts.values()) <= 1.25 * 400 / 8 + 1
    assert min(counts.values()) >= 25


def test_cold_conversations_spread_evenly_over_a_busy_fleet(snapshot_of, request_of):
    """Prompts longer than the work on any replica still pass over the one that has most of it."""
    running = [40, 2, 2, 2, 2, 2, 2, 2]
    rows = {warm(request_of(1500, 0, key), snapshot_of([0] * 8, running=running)).row for key in range(100)}
    assert rows == set(range(1, 8))


def test_cold_conversation_takes_its_place_on_the_ring(snapshot_of, request_of):
    """On an idle fleet the first replica clockwise is taken."""
    snapshot = snapshot_of([0] * 5)
    for key in range(20):
        assert warm(request_of(key=key), snapshot).row == next(walk(snapshot.replicas, key))


def test_two_routers_with_the_same_snapshot_agree(snapshot_of, request_of):
    """Routers that see the same state send a conversation to the same replica, cold or warm."""
    for cached in ([0] * 4, [160, 160, 0, 0], [500] * 4):
        for key in range(30):
            request = request_of(key=key)
            assert warm(request, snapshot_of(cached)).row == warm(request, snapshot_of(cached)).row


def test_ties_go_by_the_ring(snapshot_of, request_of):
    """Replicas whose cost is nearly the same share conversations; a conversation keeps its choice."""
    snapshot = snapshot_of([480, 480, 480, 0], queued=[0, int(TIE_TOKENS), 0, 0])
    rows = Counter(warm(request_of(prompt=500, key=key), snapshot).row for key in range(300))
    assert set(rows) == {0, 1, 2}
    assert warm(request_of(prompt=500, key=4), snapshot).row == next(
        row for row in walk(snapshot.replicas, 4) if row < 3
    )


def test_beyond_a_tie_the_cheaper_one_wins(snapshot_of, request_of):
    """A difference above the tie decides for every conversation."""
    snapshot = snapshot_of([480, 480], queued=[int(TIE_TOKENS) + 1, 0])
    assert {warm(request_of(prompt=500, key=key), snapshot).row for key in range(50)} == {1}


def test_a_slow_replica_gets_less(snapshot_of, request_of):
    """At half speed the same queue takes twice as long, and so does computing anything there."""
    snapshot = snapshot_of([0, 0], queued=[1000, 1500], pace=[2.0, 1.0])
    assert {warm(request_of(key=key), snapshot).row for key in range(50)} == {1}


def test_what_is_hot_gets_copies_and_what_is_not_stays(snapshot_of, request_of):
    """Behind the same queue, a text that many prompts begin with is computed again, a rare one is not."""
    snapshot = snapshot_of([0, 960, 0], queued=[0, 2000, 0])
    for share, row_stays in ((0.0, True), (POPULAR_SHARE / 3, False)):
        row = warm(request_of(), snapshot._replace(share=share)).row
        assert (row == 1) is row_stays


def test_without_sight_of_caches_the_ring_decides(snapshot_of, request_of):
    """A conversation keeps its place on the ring whatever its last replica has to do, up to the bound."""
    blind = snapshot_of([0] * 4, queued=[100, 0, 200, 50])._replace(caches_seen=False)
    for key in range(30):
        assert warm(request_of(key=key), blind).row == consistent_hash(request_of(key=key), blind).row


def test_requests_wait_in_the_router_only_for_a_replica_with_enough_to_do(snapshot_of, request_of):
    """The room is larger than a step of the engine, so that no step is computed half empty."""
    for cached in ([0, 0], [960, 0]):
        assert 2048 < warm(request_of(), snapshot_of(cached)).room_tokens < np.inf


def test_holder_that_cannot_be_chosen_does_not_count(snapshot_of, request_of):
    """When only an ineligible replica holds the prompt, it is cold for the others."""
    decision = warm(request_of(), snapshot_of([960, 0, 0], eligible=[False, True, True]))
    assert decision.reason == "cold"
    assert decision.row in (1, 2)
    assert np.isinf(decision.costs[0])


def test_longer_match_wins_among_equally_loaded(snapshot_of, request_of):
    """Of several holders the one with most of the prompt is chosen."""
    assert warm(request_of(), snapshot_of([320, 960, 640])).row == 1


def test_nobody_eligible_is_an_error(snapshot_of, request_of):
    """There is no answer without a replica."""
    with pytest.raises(NoReplicaError):
        warm(request_of(), snapshot_of([0, 0], eligible=[False, False]))
    with pytest.raises(NoReplicaError):
        warm(request_of(), snapshot_of([]))


def test_conversation_without_a_block_of_its_own_stays_where_it_was(snapshot_of, request_of):
    """Where nobody holds more than its last replica, a conversation stays there despite some more load."""
    snapshot = snapshot_of(cached=[896, 896], queued=[100, 0], running=[2, 0])
    request = request_of(prompt=1010, opening=1000)
    for last_replica in (0, 1):
        assert warm(request, snapshot._replace(last_replica=last_replica)).row == last_replica
    assert warm(request, snapshot._replace(last_replica=-1)).row == 1


def test_home_is_left_for_more_blocks_or_for_much_less_load(snapshot_of, request_of):
    """A conversation leaves its last replica for more blocks elsewhere, and for much less load."""
    elsewhere = snapshot_of(cached=[0, 896])
    assert warm(request_of(), elsewhere._replace(last_replica=0)).row == 1
    crowded = snapshot_of(cached=[0, 0], queued=[5000, 0])
    assert warm(request_of(), crowded._replace(last_replica=0)).row == 1
    gone = snapshot_of(cached=[896, 0], eligible=[False, True])
    assert warm(request_of(), gone._replace(last_replica=0)).row == 1
