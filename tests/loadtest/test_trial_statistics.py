"""Intervals and power of load tests, against rounds whose truth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trial_samples import answers, trial

from loadtest.studies import equal_arms
from loadtest.trial.compare import MIN_CONVERSATIONS, MIN_ROUNDS, Outcome, compare_all, rounds_for
from loadtest.trial.machine import disturbances
from loadtest.trial.records import Answer, Lag, Warmth
from loadtest.trial.statistics import Interval, interval_over, rounds_needed, student_quantile


@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    [(0.975, 1, 12.706), (0.975, 3, 3.182), (0.95, 10, 1.812), (0.975, 999, 1.962)],
)
def test_quantiles_are_students(share, freedom, value):
    """As in any table of his distribution."""
    assert student_quantile(share, freedom) == pytest.approx(value, abs=0.001)


@pytest.mark.parametrize("rounds", [4, 12])
def test_interval_over_rounds_holds_the_truth_in_95_percent(rounds):
    """Also with few rounds, whatever makes them differ."""
    source = np.random.default_rng(3)
    held = sum(interval_over(source.normal(0.2, 0.1, rounds)).holds(0.2) for _ in range(2000)) / 2000
    assert held == pytest.approx(0.95, abs=0.015)


def test_intervals_of_all_figures_hold_together():
    """With seven figures each is so wide that all hold the truth in at least 95% of cases."""
    source = np.random.default_rng(3)
    held = sum(all(interval_over(source.normal(0, 1, 6), 7).holds(0.0) for _ in range(7)) for _ in range(300))
    assert held / 300 >= 0.93


def test_as_many_rounds_as_needed_find_the_difference():
    """In at least 90% of cases, although their number follows from a spread that is itself an estimate."""
    source, found, difference = np.random.default_rng(5), 0, math.log(1.1)
    for _ in range(200):
        pilot = source.normal(difference, 0.08, 6)
        needed = max(rounds_needed(float(pilot.std(ddof=1)), difference, 7), 6)
        rounds = np.concatenate([pilot, source.normal(difference, 0.08, needed - 6)])
        found += interval_over(rounds, 7).low > 0
    assert found >= 180


@given(st.floats(0.01, 1), st.floats(0.02, 1))
def test_smaller_differences_need_more_rounds(spread, difference):
    """About four times as many for half of it; never fewer than two; no number beyond a thousand."""
    much, little = rounds_needed(spread, difference), rounds_needed(spread, difference / 2)
    assert much is None or much >= 2
    if much is not None and little is not None:
        assert much <= little <= 4 * much + 4
    assert rounds_needed(math.nan, difference) is None


def test_a_product_is_as_uncertain_as_both_factors():
    """Independent errors add as squares."""
    product = Interval(10.0, 7.0, 13.0).times(Interval(2.0, 1.2, 2.8))
    assert (product.estimate, product.low, product.high) == pytest.approx((20.0, 10.0, 30.0))


def conversations(seed, _step, _seconds, _rate):
    """A round of 60 requests, instead of one in virtual time."""
    return answers(0.1, 500, 15, seed)


def test_equal_arms_are_rarely_told_apart(monkeypatch):
    """Of trials of one policy against itself, on a machine where whole rounds are disturbed, next to none
    claim a difference in any figure. (The study has hundreds, on three kinds of machines.)"""
    monkeypatch.setattr(equal_arms, "simulated", conversations)
    monkeypatch.setattr(equal_arms, "MOST_ROUNDS", 8)
    results = [equal_arms.trial(equal_arms.MACHINES["disturbed"], 0.0, seed) for seed in range(30)]
    assert sum(bool(result.claims) for result in results) <= 2
    assert {result.rounds for result in results} == {6, 8}


def test_a_difference_is_found_with_the_rounds_that_were_asked_for(monkeypatch):
    """First tokens that come 1.1 times as fast are found, on a machine that others use too."""
    monkeypatch.setattr(equal_arms, "simulated", conversations)
    results = [equal_arms.trial(equal_arms.MACHINES["shared"], 0.1, seed) for seed in range(10)]
    assert sum(result.found for result in results) >= 9
    assert max(result.rounds for result in results) > 6


def test_only_conversations_of_both_arms_are_compared():
    """What one arm has not held is left out, round by round."""
    whole = trial(conversations=240)
    fewer = [
        replace(one, answers=[a for a in one.answers if a.conversation != "chat:0"])
        if one.arm == "warm"
        else one
        for one in whole.rounds
    ]
    assert {one.conversations for one in compare_all(replace(whole, rounds=fewer))} == {240 - 6}


def test_a_real_difference_is_found():
    """Twice the speed and more cached tokens: better in the median, the mean and the hit rate."""
    outcomes = {one.figure.key: one for one in compare_all(trial(conversations=240))}
    for key in ("ttft_p50", "ttft_mean", "hit_rate"):
        assert outcomes[key].outcome is Outcome.BETTER
        assert outcomes[key].gain.low <= outcomes[key].gain.estimate <= outcomes[key].gain.high
    assert outcomes["ttft_p50"].gain.holds(2.0)
    assert outcomes["hit_rate"].gain.holds(0.75 * 0.3)


def test_a_slower_arm_is_called_worse():
    """The verdict goes both ways."""
    outcomes = {one.figure.key: one.outcome for one in compare_all(trial(240, our_speed=0.4))}
    assert outcomes["ttft_p50"] is Outcome.WORSE


def test_one_slow_round_proves_nothing():
    """Three times as slow in one of six rounds, with hundreds of conversations: the machine, and no arm."""
    same = trial(conversations=600, our_speed=0.2)
    slow = [
        replace(one, answers=[replace(a, ttft=3 * a.ttft, cached_tokens=0) for a in one.answers])
        if one.arm == "warm" and one.number == 2
        else replace(one, answers=[replace(a, cached_tokens=0) for a in one.answers])
        for one in same.rounds
    ]
    assert not {one.outcome for one in compare_all(replace(same, rounds=slow))} & set(equal_arms.CLAIMS)


@pytest.mark.parametrize("few", [{"conversations": MIN_CONVERSATIONS - 1}, {"rounds": MIN_ROUNDS - 1}])
def test_too_few_give_no_conclusion(few):
    """One conversation or round less than the least, and nothing is concluded from any difference."""
    compared = compare_all(trial(**{"conversations": 300, "our_speed": 0.001, **few}))
    assert {one.outcome for one in compared} == {Outcome.TOO_FEW}
    assert (rounds_for(compared) or 0) >= MIN_ROUNDS


def test_percentiles_need_requests_beyond_them():
    """240 requests have 12 beyond p95 and two beyond p99."""
    outcomes = {one.figure.key: one.outcome for one in compare_all(trial(conversations=60))}
    assert outcomes["ttft_p95"] is not Outcome.TOO_FEW
    assert outcomes["ttft_p99"] is Outcome.TOO_FEW


def test_disturbed_rounds_are_named():
    """A late generator, and more load than in the other rounds; the load that is always there is none."""
    rounds = [replace(one, others=0.5) for one in trial().rounds]
    assert not any(disturbances(rounds))
    rounds[1] = replace(rounds[1], lag=Lag(0.08, 0.2))
    rounds[4] = replace(rounds[4], others=0.9)
    found = disturbances(rounds)
    assert "80.0\u00a0ms late" in found[1]
    assert "others took 90.0% of the machine, 50.0% in the median" in found[4]
    assert sum(map(bool, found)) == 2


@pytest.mark.parametrize(
    ("cached", "warmth"), [(0, Warmth.COLD), (499, Warmth.PARTLY), (500, Warmth.WARM), (999, Warmth.WARM)]
)
def test_warm_is_at_least_half(cached, warmth):
    """Cold found nothing, warm at least half of its prompt."""
    assert Answer("a", 0, 0.0, 0.1, 0.2, 1000, cached).warmth is warmth
