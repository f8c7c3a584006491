"""Where prompts part ways, and how hot such places are."""

from random import Random

import numpy as np
import pytest

from cluster.fleet.branches import HORIZON, MAX_BRANCHES, Branches
from cluster.fleet.fleet import Fleet
from cluster.protocol.wire import Lease, Load, ReplicaState


def test_a_conversation_that_goes_on_is_not_hot():
    """Each of its turns leaves what is known at another block, once."""
    branches = Branches()
    for key in range(1000):
        assert branches.share(key) == 0.0
        branches.add(key)


def test_shares_are_those_of_prompts_that_part_ways():
    """Three in four prompts leave after one block, one in four after another; once is nothing."""
    branches = Branches()
    for number in range(4_000):
        branches.add(1 if number % 4 else 2)
        branches.add(1_000_000 + number)
    assert branches.share(1) == pytest.approx(0.75, abs=0.03)
    assert branches.share(2) == pytest.approx(0.25, abs=0.03)
    assert branches.share(1_000_000) < 0.001


def test_one_prompt_makes_nothing_hot_and_three_do():
    """The first new conversations with one opening must not all go to its holder."""
    branches = Branches()
    branches.add(1)
    assert branches.share(1) <= 0.5
    branches.add(1)
    branches.add(1)
    assert branches.share(1) > 0.5


def busy_branches():
    """Of a router that has long seen a hundred openings, all equally often."""
    branches, source = Branches(), Random(7)
    for _ in range(5_000):
        branches.add(source.randrange(100))
    return branches


def test_an_opening_new_to_a_busy_router_is_soon_known_to_be_hot():
    """Twenty prompts in a row are a large share of the last ones, though not of the last thousand."""
    branches = busy_branches()
    for _ in range(20):
        branches.add(1_000)
    assert branches.share(1_000) > 0.1
    for _ in range(80):
        branches.add(1_000)
    assert branches.share(1_000) > 0.5


def test_what_is_rare_is_not_hot_by_chance():
    """A hundred openings, equally often: none is ever taken for much more than it is."""
    branches, source = busy_branches(), Random(8)
    shares = []
    for _ in range(2_000):
        branches.add(source.randrange(100))
        shares.append(max(branches.share(key) for key in range(100)))
    assert np.percentile(shares, 99) < 0.06


def test_what_was_hot_cools_down():
    """After five times the horizon of other prompts less than a hundredth is left."""
    branches = Branches()
    for _ in range(int(HORIZON)):
        branches.add(1)
    for _ in range(5 * int(HORIZON)):
        branches.add(2)
    assert branches.share(1) < 0.01


def test_memory_is_bounded():
    """Beyond the bound the places that were left longest ago are forgotten, not the others."""
    branches = Branches()
    for key in range(MAX_BRANCHES + 10):
        branches.add(key)
    branches.add(5)
    branches.add(MAX_BRANCHES)
    assert branches.share(MAX_BRANCHES) > branches.share(5) > 0


def test_a_snapshot_says_how_popular_the_place_is_where_a_prompt_goes_on():
    """Prompts with one opening share it; the next turn of one of them goes on after its own blocks."""
    fleet = Fleet()
    for name in ("a", "b"):
        lease = Lease(
            replica=name, url="", state=ReplicaState.READY, model="m", block_size=16, publishes_events=True
        )
        fleet.admit(lease, 1, Load())
    opening = [1, 2, 3]
    fleet.apply(fleet.replicas["a"], opening, (), cleared=False)
    for number in range(20):
        keys = [*opening, 100 + number]
        snapshot = fleet.snapshot(fleet.models["m"], keys, 70, 0.0)
        booking = fleet.book(fleet.replicas["a"], keys, 70, int(snapshot.cached_tokens[0]))
        fleet.apply(fleet.replicas["a"], keys, (), cleared=False)
        booking.release(0.0, succeeded=True)
    assert fleet.snapshot(fleet.models["m"], [*opening, 999], 70, 0.0).share > 0.5
    continued = fleet.snapshot(fleet.models["m"], [*opening, 100, 555], 90, 0.0)
    assert continued.share == 0.0
    assert np.array_equal(continued.cached_tokens, [64, 0])
