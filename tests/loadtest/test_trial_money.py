"""The cost model and the saturation sweep, in figures that can be checked by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trial_samples import answers, probes, trial

from loadtest.trial.figures import all_savings, cache_worth, prefill_of
from loadtest.trial.money import Price, prefill_seconds_per_token, replicas_needed, savings
from loadtest.trial.records import Answer, Lag, Round
from loadtest.trial.report import find
from loadtest.trial.saturation import step_of, sustained
from loadtest.trial.statistics import Interval, Slope

SURE = Interval(200.0, 200.0, 200.0)


def test_tokens_become_hours_and_money():
    """200 tokens less in each of 360,000 requests a day, at 0.5 ms per token: 10 hours, USD 25."""
    saved = savings("round-robin", SURE, Slope(0.0005, 0.0), 360_000, Price(2.5))
    assert saved.tokens_per_day.estimate == pytest.approx(72e6)
    assert saved.gpu_hours_per_day.estimate == pytest.approx(10.0)
    assert saved.money_per_day.estimate == pytest.approx(25.0)
    assert saved.money_per_day.low == pytest.approx(saved.money_per_day.high)


def test_replicas_of_several_gpus_cost_more():
    """Four GPUs per replica work, or rest, together."""
    one, four = (
        savings("x", SURE, Slope(0.0005, 0.0), 1000, Price(2.5, gpus)).money_per_day.estimate
        for gpus in (1, 4)
    )
    assert four == pytest.approx(4 * one)


def test_an_uncertain_speed_widens_the_interval():
    """The interval holds what is not known of the tokens and of the speed."""
    tokens = Interval(200.0, 180.0, 220.0)
    sure, unsure = (
        savings("x", tokens, Slope(0.0005, error), 1000, Price(1.0)).money_per_day for error in (0.0, 0.0002)
    )
    assert unsure.high - unsure.low > 2 * (sure.high - sure.low)
    assert unsure.estimate == sure.estimate


@given(st.floats(1e-6, 0.01), st.floats(0, 1))
def test_speed_is_read_off_exact_measurements(seconds_per_token, base):
    """On a straight line the slope is the line's, whatever each request costs besides."""
    tokens = [10.0, 100.0, 300.0, 500.0, 900.0, 1000.0]
    slope = prefill_seconds_per_token(tokens, [base + seconds_per_token * n for n in tokens])
    assert slope.estimate == pytest.approx(seconds_per_token, rel=1e-6)


def test_speed_of_noisy_probes_lies_in_its_interval():
    """0.5 ms per token, with some noise."""
    assert prefill_of(probes(0.0005)).interval().holds(0.0005)


def test_equal_prompts_tell_no_speed():
    """Without a spread of lengths, or with fewer than six measurements, there is no slope."""
    assert prefill_seconds_per_token([100.0] * 8, [1.0] * 8) is None
    assert prefill_seconds_per_token([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) is None


def test_a_cache_is_worth_what_it_saves_on_the_idle_fleet():
    """Cold 520 ms, warm 24 ms."""
    worth = cache_worth(probes(0.0005))
    assert worth.cold == pytest.approx(0.52, abs=0.01)
    assert worth.warm == pytest.approx(0.024, abs=0.004)
    assert worth.gain.low <= worth.cold / worth.warm <= worth.gain.high


def test_few_probes_tell_no_worth():
    """Seven whole prompts are too few."""
    assert cache_worth(probes(count=14)) is None


def test_savings_follow_the_tokens_of_the_trial():
    """Three of four requests find 300 tokens more of 1,000: 225 per request."""
    [saved] = all_savings(trial(conversations=100), Price(2.5), per_day=1000)
    assert saved.tokens_per_request.estimate == pytest.approx(225)
    assert saved.tokens_per_day.estimate == pytest.approx(225_000)


def test_no_money_without_a_speed():
    """A fleet that was not probed has no price, and the report says why."""
    unprobed = replace(trial(), probes=())
    assert all_savings(unprobed, Price(1.0), None) == []
    assert any("--probes" in one for one in find(unprobed, Price(1.0), 2.0, 1.0, None, 8).warnings)


@pytest.mark.parametrize(("rate", "wanted", "needed"), [(10, 10, 8), (5, 10, 16), (6, 10, 14), (10, 1, 1)])
def test_replicas_grow_with_what_they_must_serve(rate, wanted, needed):
    """Eight replicas serve ``rate``."""
    assert replicas_needed(8, rate, wanted) == needed


def step(arm, rate, seconds, failed=0, goal=1.0):
    """A round of the sweep in which every request takes so long."""
    good = answers(seconds, 500, 50)
    broken = [Answer("x", 0, 40.0, float("nan"), 1.0, error="500") for _ in range(failed)]
    return step_of(Round(arm, 0, rate, 60.0, 70.0, [*good, *broken], Lag(0, 0)), goal)


def test_the_sustained_rate_lies_between_the_last_good_and_the_first_bad():
    """p95 crosses the goal somewhere between; the faster it grows, the nearer to the good one."""
    steps = [step("a", 1.0, 0.1), step("a", 2.0, 0.2), step("a", 4.0, 5.0)]
    found = sustained(steps, "a")
    assert 2.0 < found.rate < 4.0
    assert not found.at_least


def test_an_arm_that_is_never_saturated_serves_at_least_the_highest_rate():
    """What was not tried is not claimed."""
    found = sustained([step("a", 1.0, 0.1), step("a", 2.0, 0.2), step("b", 4.0, 0.2)], "a")
    assert (found.rate, found.at_least) == (2.0, True)


def test_an_arm_that_misses_the_goal_everywhere_serves_nothing():
    """No rate is claimed for it."""
    assert sustained([step("a", 1.0, 3.0)], "a").rate == 0.0


def test_failures_saturate():
    """Ten failures in 130 requests are too many, however fast the others are; so are long queues."""
    assert not step("a", 1.0, 0.1).saturated
    assert step("a", 1.0, 0.1, failed=10).saturated
    assert step("a", 1.0, 20.0).saturated


def test_a_step_is_measured_while_the_fleet_is_steady():
    """The first third of the round, and what is sent after its time is up, do not count."""
    one = Round("a", 0, 1.0, 30.0, 70.0, answers(0.1, 500, 50), Lag(0, 0))
    steady = [answer for answer in one.answers if 10 <= answer.sent <= 30]
    measured = step_of(one, goal=1.0)
    assert measured.requests == len(steady) < len(one.answers)
    assert measured.hit_rate == pytest.approx(sum(a.cached_tokens for a in steady) / (1000 * len(steady)))
