"""Who takes part in an experiment, what each arm counts, and how far the difference can be trusted."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.store.steering import Experiment
from policies.catalog import POLICIES
from router.steer.arm_totals import GROUPS, TTFT_BINS, ArmColumn, ArmTotals
from router.steer.experiment import Trial, draw
from router.steer.experiment_report import MIN_GROUPS, difference
from router.steer.geometric_bins import SECONDS_RANGE

KEYS = st.integers(1, 2**64 - 1)
SHARES = st.floats(0.001, 0.999)
HIT_RATE = (ArmColumn.DELIVERED_CACHED_TOKENS, ArmColumn.PROMPT_TOKENS)


def trial(share=0.1, name="experiment", default="warm", control="round-robin", started=1.0):
    """A run of an experiment as one router sees it."""
    return Trial(Experiment(name=name, control=control, share=share, started=started), default, POLICIES)


def many_keys(count, seed=0):
    """Conversation keys as hashing makes them."""
    return [int(key) for key in np.random.default_rng(seed).integers(1, 2**63, count)]


# ---- who takes part ----


@given(KEYS, SHARES)
def test_conversation_is_in_the_same_arm_everywhere(key, share):
    """Two routers that share nothing agree, at every turn, on arm, policy and group."""
    here, there = trial(share), trial(share)
    assert [here.assign(key).arm for _ in range(3)] == [there.assign(key).arm] * 3
    assert here.assign(key).policy_name == there.assign(key).policy_name
    assert here.assign(key).group == there.assign(key).group


@given(KEYS, SHARES, SHARES)
def test_larger_share_moves_conversations_into_the_control_arm_only(key, one, other):
    """Nobody leaves the control arm when the share grows, or enters it when the share shrinks."""
    small, large = sorted((one, other))
    if trial(small).assign(key).arm == "control":
        assert trial(large).assign(key).arm == "control"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_share_of_conversations_is_right(share):
    """Of 20,000 conversations, within four standard deviations of the binomial distribution."""
    count, running = 20_000, trial(share)
    drawn = sum(running.assign(key).arm == "control" for key in many_keys(count))
    assert abs(drawn - share * count) <= 4 * math.sqrt(count * share * (1 - share))


def test_consecutive_keys_are_drawn_as_well_as_random_ones():
    """The share does not depend on how conversation keys are distributed."""
    running = trial(0.1)
    drawn = sum(running.assign(key).arm == "control" for key in range(1, 20_001))
    assert abs(drawn - 2000) <= 4 * math.sqrt(20_000 * 0.1 * 0.9)


def test_another_name_draws_other_conversations():
    """Membership under two names is independent: a tenth of a tenth is in both."""
    keys = many_keys(20_000)
    both = sum(max(draw("one", key), draw("two", key)) < 0.1 * 2**64 for key in keys)
    assert abs(both - 200) <= 4 * math.sqrt(200)


def test_arms_use_their_policies():
    """The control arm is decided by the control policy, everybody else by the default."""
    assigned = {one.arm: one for one in map(trial(0.5).assign, many_keys(50))}
    assert (assigned["default"].policy_name, assigned["default"].policy) == ("warm", POLICIES["warm"])
    assert assigned["control"].policy is POLICIES["round-robin"]


def test_groups_are_equally_likely_in_both_arms():
    """Each of the 64 groups gets its part of either arm: which arm says nothing about the group."""
    counts = {"default": np.zeros(GROUPS), "control": np.zeros(GROUPS)}
    for assigned in map(trial(0.5).assign, many_keys(20_000)):
        counts[assigned.arm][assigned.group] += 1
    for arm in counts.values():
        assert abs(arm - 10_000 / GROUPS).max() <= 5 * math.sqrt(10_000 / GROUPS)


# ---- what is counted ----


@given(st.lists(st.floats(*SECONDS_RANGE), min_size=1, max_size=50), st.sampled_from([1, 50, 95, 99, 100]))
def test_percentile_is_within_its_stated_error(seconds, percent):
    """Never more than 2% from the exact percentile of the samples."""
    totals = ArmTotals()
    for one in seconds:
        totals.add(0, {ArmColumn.TTFT_SECONDS: one})
    exact = sorted(seconds)[math.ceil(percent / 100 * len(seconds)) - 1]
    assert totals.ttft_percentile(percent) == pytest.approx(exact, rel=TTFT_BINS.error * 1.000001)


@pytest.mark.parametrize(("seconds", "counted"), [(0.0, SECONDS_RANGE[0]), (1e9, SECONDS_RANGE[1])])
def test_times_outside_the_range_count_as_its_ends(seconds, counted):
    """The number of buckets is fixed, so memory is bounded whatever comes."""
    totals = ArmTotals()
    totals.add(0, {ArmColumn.TTFT_SECONDS: seconds})
    assert totals.ttft_percentile(50) == pytest.approx(counted, rel=TTFT_BINS.error)
    assert len(totals.encode()) < 8000


def test_no_sample_has_no_percentile():
    """Nothing is not zero."""
    assert ArmTotals().ttft_percentile(50) is None


def test_reports_of_routers_add_up():
    """What several routers counted is as if one had counted it; what cannot be read is left out."""
    routers = [trial(0.5), trial(0.5)]
    for number, key in enumerate(many_keys(40)):
        assigned = routers[number % 2].assign(key)
        values = {ArmColumn.REQUESTS: 1, ArmColumn.PROMPT_TOKENS: 100, ArmColumn.DELIVERED_CACHED_TOKENS: 25}
        assigned.totals.add(assigned.group, {**values, ArmColumn.STREAMS: 1, ArmColumn.TTFT_SECONDS: 0.5})
    report = routers[0].report([routers[1].encode(), b"another version", b""])
    assert report["routers"] == 2
    arms = report["arms"]
    assert sum(arm["requests"] for arm in arms.values()) == 40
    assert arms["default"]["policy"] == "warm"
    assert arms["control"]["hit_rate"] == arms["default"]["hit_rate"] == 0.25
    assert arms["default"]["ttft_seconds"]["mean"] == 0.5
    assert sum(arm["ttft_seconds"]["samples"] for arm in arms.values()) == 40


def test_report_before_the_first_request():
    """Everything is there, and nothing is claimed."""
    report = trial().report([])
    assert report["arms"]["control"]["requests"] == 0
    assert report["arms"]["control"]["hit_rate"] is None
    assert report["default_minus_control"] == {"hit_rate": None, "ttft_mean_seconds": None}


# ---- how far it can be trusted ----


def arm_of(conversations, rng, true_hit_rate=0.4):
    """Totals of conversations of very different length; all turns of one have the same hit rate."""
    totals = ArmTotals()
    group = rng.integers(0, GROUPS, conversations)
    prompt = rng.lognormal(5, 1, conversations) * rng.geometric(0.3, conversations)
    hit_rate = rng.beta(2, 2 / true_hit_rate - 2, conversations)
    np.add.at(totals.sums[:, ArmColumn.PROMPT_TOKENS], group, prompt)
    np.add.at(totals.sums[:, ArmColumn.DELIVERED_CACHED_TOKENS], group, prompt * hit_rate)
    return totals


def test_interval_holds_the_truth_as_often_as_it_says():
    """Of 500 experiments without any difference, about 95% of the intervals contain zero, not all of them."""
    rng = np.random.default_rng(7)
    found = [difference(arm_of(2000, rng), arm_of(500, rng), *HIT_RATE) for _ in range(500)]
    assert 0.92 <= sum(one["low"] <= 0 <= one["high"] for one in found) / 500 <= 0.98


def test_real_difference_is_found():
    """Ten points of hit rate show with 500 conversations in the smaller arm."""
    rng = np.random.default_rng(7)
    found = difference(arm_of(2000, rng, 0.5), arm_of(500, rng, 0.4), *HIT_RATE)
    assert 0 < found["low"] < 0.1 < found["high"]


def test_one_conversation_is_no_evidence():
    """However many turns it has: below 48 groups in use there is no interval."""
    large, small = arm_of(2000, np.random.default_rng(1)), ArmTotals()
    for group in range(MIN_GROUPS - 1):
        for _ in range(100):
            small.add(group, {ArmColumn.PROMPT_TOKENS: 100, ArmColumn.DELIVERED_CACHED_TOKENS: 10})
    assert difference(large, small, *HIT_RATE) is None
    small.add(MIN_GROUPS, {ArmColumn.PROMPT_TOKENS: 100})
    assert difference(large, small, *HIT_RATE) is not None
