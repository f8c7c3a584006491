"""Intervals and power of load tests, against distributions whose truth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trial_samples import answers, trial

from loadtest.trial.compare import MIN_CONVERSATIONS, Outcome, compare_all
from loadtest.trial.records import Answer, Warmth
from loadtest.trial.statistics import (
    Sample,
    clusters_needed,
    draw_counts,
    interval_of,
    ratio_draws,
    shared_clusters,
)

TRIALS = 120
CONVERSATIONS = 60
TURNS = 5


def drawn(source, shift=0.0):
    """Requests of which those of one conversation resemble each other: a Sample of logarithms of seconds."""
    own = source.normal(shift, 1.0, CONVERSATIONS)
    values = np.repeat(own, TURNS) + source.normal(0, 0.3, CONVERSATIONS * TURNS)
    return Sample(values, np.repeat(np.arange(CONVERSATIONS), TURNS))


def coverage(interval, truth=0.0):
    """In how many of 120 experiments the interval holds the truth."""
    source = np.random.default_rng(11)
    return sum(interval(drawn(source)).holds(truth) for _ in range(TRIALS)) / TRIALS


def test_interval_of_a_mean_holds_the_truth_in_95_percent():
    """Over whole conversations the interval keeps its promise, within what 120 experiments can tell."""

    def interval(sample):
        counts = draw_counts(CONVERSATIONS, draws=300)
        over, under = sample.sums(CONVERSATIONS), np.full(CONVERSATIONS, float(TURNS))
        return interval_of(float(sample.values.mean()), ratio_draws(over, under, counts))

    assert 0.90 <= coverage(interval) <= 0.99


def test_interval_of_a_median_holds_the_truth_in_95_percent():
    """So does that of a percentile."""

    def interval(sample):
        draws = sample.quantile_draws(0.5, draw_counts(CONVERSATIONS, draws=300))
        return interval_of(sample.quantile(0.5), draws)

    assert 0.90 <= coverage(interval) <= 0.99


def test_single_requests_would_promise_too_much():
    """If every request counted as independent, the interval would miss the truth far too often: this is why
    conversations are drawn."""

    def interval(sample):
        alone = Sample(sample.values, np.arange(len(sample.values)))
        draws = ratio_draws(
            alone.values, np.ones(len(alone.values)), draw_counts(len(alone.values), draws=300)
        )
        return interval_of(float(alone.values.mean()), draws)

    assert coverage(interval) < 0.85


def test_power_is_what_was_promised():
    """With as many conversations as are said to be needed, the difference is found in about 80% of trials."""
    source = np.random.default_rng(5)
    difference, spread = 0.3, 1.0
    needed = clusters_needed(difference, spread / math.sqrt(50), 50)
    means = source.normal(difference, spread / math.sqrt(needed), 20_000)
    found = np.abs(means) > 1.96 * spread / math.sqrt(needed)
    assert found.mean() == pytest.approx(0.8, abs=0.02)


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(2, 1000))
def test_half_the_difference_needs_four_times_the_conversations(difference, error, clusters):
    """Needed numbers grow with the square of what is to be found."""
    much, little = (clusters_needed(value, error, clusters) for value in (difference, difference / 2))
    if much is not None and little is not None:
        assert 4 * (much - 1) <= little <= 4 * much


@pytest.mark.parametrize("difference", [0.0, math.nan, 1e-9])
def test_no_number_where_there_is_no_difference(difference):
    """Nothing, or next to nothing, cannot be found with any number that one could name."""
    assert clusters_needed(difference, 1.0, 50) is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.sampled_from([0.5, 0.95, 0.99]))
def test_weighted_quantile_is_that_of_repeated_requests(values, share):
    """The quantile of a draw is the quantile of the requests, each as often as its conversation was drawn."""
    clusters = np.arange(len(values)) // 2
    sample = Sample(np.array(values), clusters)
    counts = draw_counts(int(clusters[-1]) + 1, draws=20)
    for drawn_counts, quantile in zip(counts, sample.quantile_draws(share, counts), strict=True):
        repeated = np.repeat(sample.values, drawn_counts[clusters])
        if repeated.size:
            assert quantile == np.quantile(repeated, share, method="inverted_cdf")
        else:
            assert math.isnan(quantile)


def test_only_conversations_of_all_arms_are_compared():
    """What one arm has not held is left out."""
    assert shared_clusters(["a", "b", "b"], ["b", "c", "a"]) == {"a": 0, "b": 1}


def test_a_real_difference_is_found():
    """Twice the speed and more cached tokens: better in the median, the mean and the hit rate."""
    outcomes = {one.figure.key: one for one in compare_all(trial(conversations=200))}
    for key in ("ttft_p50", "ttft_mean", "hit_rate"):
        assert outcomes[key].outcome is Outcome.BETTER
        assert outcomes[key].gain.low <= outcomes[key].gain.estimate <= outcomes[key].gain.high
    assert outcomes["ttft_p50"].gain.holds(2.0)
    assert outcomes["hit_rate"].gain.holds(0.75 * 0.3)


def test_a_slower_arm_is_called_worse():
    """The verdict goes both ways."""
    outcomes = {one.figure.key: one.outcome for one in compare_all(trial(200, our_speed=0.4))}
    assert outcomes["ttft_p50"] is Outcome.WORSE


def test_equal_arms_are_not_told_apart():
    """Other draws of the same distribution: no figure of the TTFT is better or worse."""
    same = trial(conversations=100)
    rounds = [replace(one, answers=answers(0.1, 500, 100, seed=n)) for n, one in enumerate(same.rounds)]
    undecided = compare_all(replace(same, rounds=rounds))
    assert {one.outcome for one in undecided if one.figure.key in ("ttft_p50", "ttft_mean")} == {
        Outcome.UNDECIDED
    }


def test_few_conversations_give_no_conclusion():
    """One conversation less than the least, and nothing is concluded, however large the difference."""
    few = compare_all(trial(conversations=MIN_CONVERSATIONS - 1, our_speed=0.001))
    assert {one.outcome for one in few} == {Outcome.TOO_FEW}


def test_percentiles_need_requests_beyond_them():
    """240 requests have 12 beyond p95 and two beyond p99."""
    outcomes = {one.figure.key: one.outcome for one in compare_all(trial(conversations=60))}
    assert outcomes["ttft_p95"] is not Outcome.TOO_FEW
    assert outcomes["ttft_p99"] is Outcome.TOO_FEW


@pytest.mark.parametrize(
    ("cached", "warmth"), [(0, Warmth.COLD), (499, Warmth.PARTLY), (500, Warmth.WARM), (999, Warmth.WARM)]
)
def test_warm_is_at_least_half(cached, warmth):
    """Cold found nothing, warm at least half of its prompt."""
    assert Answer("a", 0, 0.0, 0.1, 0.2, 1000, cached).warmth is warmth
