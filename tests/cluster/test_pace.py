"""How much slower than others a replica is believed to be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.fleet import PACE_SECONDS
from cluster.fleet.replicas import HALF_LIFE_SECONDS, TOLERANCE, Pace, relative_paces
from tests.cluster.fleets import fleet_of, lease

TOKENS_PER_SECOND = 10_000


def paces_of(*slowness, prompts=50, now=0.0):
    """Replicas that need so many times the usual time for each of some prompts."""
    paces = []
    for factor in slowness:
        pace = Pace()
        for number in range(prompts):
            tokens = 1_000 + 500 * (number % 5)
            pace.observe(tokens, 0, factor * (tokens + 128) / TOKENS_PER_SECOND, now)
        paces.append(pace)
    return paces


@pytest.mark.parametrize("slowness", [2.0, 3.0, 0.5])
def test_replica_of_another_speed_is_found(slowness):
    """Among equals, one that needs twice as long has a pace of about two."""
    relative = relative_paces(paces_of(1, 1, slowness, 1, 1), 0.0)
    assert relative[2] == pytest.approx(slowness, rel=0.1)
    assert relative[[0, 1, 3, 4]].tolist() == [1, 1, 1, 1]


def test_of_two_replicas_the_ratio_is_right():
    """Nobody stands in the middle there, but one is still twice as slow as the other."""
    fast, slow = relative_paces(paces_of(1, 2), 0.0)
    assert slow / fast == pytest.approx(2.0, rel=0.1)


@given(st.lists(st.floats(1.0, 1.2), min_size=2, max_size=8))
def test_small_differences_are_none(slowness):
    """Within the tolerance all count as exactly equal, so that chance moves no conversation."""
    assert max(slowness) / min(slowness) < TOLERANCE
    assert set(relative_paces(paces_of(*slowness), 0.0)) == {1.0}


@pytest.mark.parametrize("paces", [[], [Pace()], [Pace(), Pace()], paces_of(3), [Pace(), *paces_of(3)]])
def test_what_is_not_known_is_one(paces):
    """Before anything was measured, or when there is nothing to compare with."""
    assert relative_paces(paces, 0.0).tolist() == [1.0] * len(paces)


def test_one_prompt_is_no_proof():
    """A single short prompt that took ten times as long says less than what all replicas begin with."""
    slow = Pace()
    slow.observe(100, 0, 10 * 228 / TOKENS_PER_SECOND, 0.0)
    assert relative_paces([*paces_of(1, 1), slow], 0.0)[2] < 1.6


def test_slow_replica_that_gets_nothing_is_given_another_chance():
    """What was measured fades when nothing new follows; what goes on being measured stays."""
    paces = paces_of(1, 1, 3)
    ages = [relative_paces(paces, n * HALF_LIFE_SECONDS)[2] for n in range(10)]
    assert ages == sorted(ages, reverse=True)
    assert (ages[0], ages[-1]) == (pytest.approx(3.0, rel=0.1), 1.0)
    paces[2] = paces_of(3, now=9 * HALF_LIFE_SECONDS)[0]
    assert relative_paces(paces, 9 * HALF_LIFE_SECONDS)[2] == pytest.approx(3.0, rel=0.1)


def test_measured_from_sending_to_the_first_token():
    """All the work before the first token counts, of streams that began; refusals and failures do not."""
    fleet = fleet_of(lease("a"), lease("b"))

    def serve(name, seconds, **end):
        booking = fleet.book(fleet.replicas[name], range(62), 1_000)
        booking.measure_from(10.0)
        booking.prefill_done(10.0 + seconds, **end)
        booking.release(20.0, succeeded=True)

    for _ in range(50):
        serve("a", 0.1)
        serve("b", 0.3)
    measured = fleet.replicas["b"].pace.seconds
    serve("b", 0.001, first_token=False)
    failed = fleet.book(fleet.replicas["b"], range(62), 1_000)
    failed.measure_from(10.0)
    failed.release(10.1, succeeded=False)
    assert fleet.replicas["b"].pace.seconds == measured
    fast, slow = fleet.snapshot(fleet.models["m"], (), 10, 10.0).pace
    assert slow / fast == pytest.approx(3.0, rel=0.2)


def test_snapshot_shows_paces_of_its_own_replicas():
    """Read-only, kept for a moment, and made anew when replicas come and go."""
    fleet = fleet_of(lease("a"), lease("b"))
    first = fleet.snapshot(fleet.models["m"], (), 10, 0.0).pace
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 2.0
    for name, pace in zip("ab", paces_of(1, 2), strict=True):
        fleet.replicas[name].pace = pace
    assert fleet.snapshot(fleet.models["m"], (), 10, PACE_SECONDS / 2).pace.tolist() == [1, 1]
    assert fleet.snapshot(fleet.models["m"], (), 10, PACE_SECONDS).pace[1] > 1
    fleet.dismiss("a")
    assert fleet.snapshot(fleet.models["m"], (), 10, PACE_SECONDS).pace.tolist() == [1]
