"""Percentiles of times to the first token."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.history.latencies import (
    ALL_MODELS,
    BINS,
    MAX_MODELS,
    NUM_COUNTS,
    LatencyWindow,
    latencies_of,
    place_of,
)
from router.steer.geometric_bins import SECONDS_RANGE

SECONDS = st.floats(*SECONDS_RANGE)


def histogram(warm=(), cold=()):
    """Counts of these times."""
    counts = [0] * NUM_COUNTS
    for times, is_warm in ((warm, True), (cold, False)):
        for seconds in times:
            counts[place_of(seconds, warm=is_warm)] += 1
    return counts


@given(st.lists(SECONDS, min_size=1, max_size=60), st.lists(SECONDS, min_size=1, max_size=60))
def test_percentiles_are_within_five_percent(warm, cold):
    """Each of the three is near the exact one (nearest rank), and warm and cold do not mix."""
    for latency, times in zip(latencies_of(np.array(histogram(warm, cold))), (warm, cold), strict=True):
        assert latency.count == len(times)
        for percent in (50, 95, 99):
            exact = sorted(times)[math.ceil(len(times) * percent / 100) - 1]
            assert getattr(latency, f"p{percent}") == pytest.approx(exact, rel=BINS.error + 1e-9)


@pytest.mark.parametrize(("seconds", "nearest"), [(0.0, 0), (1e-9, 0), (1e9, 1)])
def test_times_out_of_range_count_as_its_end(seconds, nearest):
    """Nothing is lost, and nothing fails."""
    warm, _ = latencies_of(np.array(histogram(warm=[seconds])))
    assert warm.p50 == pytest.approx(SECONDS_RANGE[nearest], rel=BINS.error + 1e-9)


def test_without_times_percentiles_are_unknown():
    """Null, and a count of zero."""
    warm, cold = latencies_of(np.array(histogram(cold=[1.0])))
    assert (warm.count, warm.p50, warm.p95, warm.p99) == (0, None, None, None)
    assert cold.count == 1


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
