"""Percentiles of times to the first token."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.history.latencies import (
    ALL_MODELS,
    BINS,
    ENOUGH,
    MAX_MODELS,
    NUM_COUNTS,
    LatencyWindow,
    WarmCold,
)
from router.steer.geometric_bins import SECONDS_RANGE

SECONDS = st.floats(*SECONDS_RANGE)


def histogram(warm=(), cold=()):
    """Counts of these times."""
    counts = [0] * NUM_COUNTS
    for times, is_warm in ((warm, True), (cold, False)):
        for seconds in times:
            counts[BINS.place_of(seconds) + (0 if is_warm else BINS.size)] += 1
    return counts


@given(st.lists(SECONDS, min_size=1, max_size=60), st.lists(SECONDS, min_size=1, max_size=60))
def test_percentiles_are_within_one_percent(warm, cold):
    """Each of the three is near the exact one (nearest rank), and warm and cold do not mix."""
    both = WarmCold.of(np.array(histogram(warm, cold)))
    for latency, times in ((both.warm, warm), (both.cold, cold)):
        assert latency.count == len(times)
        for percent in (50, 95, 99):
            exact = sorted(times)[math.ceil(len(times) * percent / 100) - 1]
            assert getattr(latency, f"p{percent}") == pytest.approx(exact, rel=BINS.error + 1e-9)


@pytest.mark.parametrize(("seconds", "nearest"), [(0.0, 0), (1e-9, 0), (1e9, 1)])
def test_times_out_of_range_count_as_its_end(seconds, nearest):
    """Nothing is lost, and nothing fails."""
    both = WarmCold.of(np.array(histogram(warm=[seconds])))
    assert both.warm.p50 == pytest.approx(SECONDS_RANGE[nearest], rel=BINS.error + 1e-9)


def test_without_times_percentiles_are_unknown():
    """Null, and a count of zero."""
    both = WarmCold.of(np.array(histogram(cold=[1.0])))
    assert (both.warm.count, both.warm.p50, both.warm.p95, both.warm.p99) == (0, None, None, None)
    assert both.cold.count == 1


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab"), SECONDS), max_size=30), st.integers(9, 25)
)
def test_window_holds_the_last_buckets(times, now):
    """Each model, and all together, has what lies in the last ten buckets."""
    window = LatencyWindow(10)
    for number, model, seconds in times:
        window.add(number, model, histogram(warm=[seconds]))
    window.advance(now)
    held = [(model, seconds) for number, model, seconds in times if number > now - 10]
    for model in "ab":
        expected = histogram(warm=[seconds for name, seconds in held if name == model])
        assert window.counts(model).tolist() == expected
    assert window.counts(ALL_MODELS).tolist() == histogram(warm=[seconds for _, seconds in held])
    assert list(window.models()) == sorted({model for model, _ in held})


def test_models_beyond_the_bound_count_only_together():
    """Memory is bounded whatever models are called; nothing is missing from the whole."""
    window = LatencyWindow(10)
    for number in range(MAX_MODELS + 5):
        window.add(0, f"m{number}", histogram(cold=[1.0]))
    assert len(list(window.models())) == MAX_MODELS
    assert window.counts(ALL_MODELS).sum() == MAX_MODELS + 5


@pytest.mark.parametrize(("warm", "cold"), [(ENOUGH - 1, 500), (14, 1), (500, ENOUGH - 1), (0, 0)])
def test_no_ratio_without_enough_of_both(warm, cold):
    """One cold request beside fourteen warm ones says nothing."""
    assert WarmCold.of(np.array(histogram([0.1] * warm, [1.0] * cold))).speedup is None


@pytest.mark.parametrize("ratio", [1.0, 1.3, 9.9])
def test_ratio_is_that_of_the_medians(ratio):
    """Within 2%, also of the fewest; its interval holds it."""
    for number in (ENOUGH, 5000):
        speedup = WarmCold.of(np.array(histogram([0.1] * number, [0.1 * ratio] * number))).speedup
        assert speedup.ratio == pytest.approx(ratio, rel=0.0201)
        assert speedup.low <= ratio <= speedup.high


def test_interval_holds_the_truth_nearly_always():
    """Of 400 pairs of samples from the same skewed distribution, at most 5% have an interval without 1."""
    chance, misses = np.random.default_rng(18), 0
    for number in range(400):
        warm, cold = (chance.lognormal(-2, 1, ENOUGH + number % 60) for _ in range(2))
        speedup = WarmCold.of(np.array(histogram(warm, cold))).speedup
        misses += not speedup.low <= 1 <= speedup.high
    assert misses <= 20
