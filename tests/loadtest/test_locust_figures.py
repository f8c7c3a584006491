"""What a load test counts, and what it says in the end."""

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.users.summary import as_json, as_text, limits_exceeded, rows_of
from loadtest.users.tally import MAX_NAMES, OTHERS, Row, Tally, Times, Work, bounded

DURATIONS = st.lists(st.floats(1e-5, 1000), min_size=1, max_size=60)


def times_of(durations):
    """All of these."""
    times = Times()
    for seconds in durations:
        times.add(seconds)
    return times


def row_of(ttft, *, prompt=100, cached=0, requests=1):
    """So many equal requests."""
    row = Row(
        requests=requests,
        prompt_tokens=prompt * requests,
        known_prompt_tokens=prompt * requests,
        cached_tokens=cached * requests,
        output_tokens=10 * requests,
    )
    for _ in range(requests):
        row.ttft.add(ttft)
        row.latency.add(2 * ttft)
        row.time_per_output_token.add(ttft / 10)
    return row


@given(DURATIONS, st.sampled_from([1, 50, 95, 99, 100]))
def test_percentiles_are_near_the_exact_ones(durations, percent):
    """Within half a percent of the smallest duration that so many do not exceed, and the mean is exact."""
    times = times_of(durations)
    exact = sorted(durations)[max(math.ceil(len(durations) * percent / 100), 1) - 1]
    assert times.percentile(percent) == pytest.approx(exact, rel=0.0051)
    assert times.mean == pytest.approx(sum(durations) / len(durations))
    assert times.longest == max(durations)


@given(DURATIONS, DURATIONS)
def test_merged_times_are_those_of_all(one, other):
    """Adding up the times of two processes gives the same as timing everything in one."""
    merged = times_of(one)
    merged.merge(times_of(other))
    assert merged.buckets == times_of(one + other).buckets
    assert merged.count == len(one + other)


def test_tallies_of_workers_add_up():
    """What three workers report as JSON, in parts, is what one process would have counted."""
    source, whole, merged = random.Random(1), Tally(), Tally()
    for number in range(30):
        part = Tally()
        row = row_of(source.uniform(0.01, 1), prompt=source.randint(10, 500), cached=5)
        for tally in (part, whole):
            rows = tally.first_turns if number % 3 else tally.later_turns
            bounded(rows, f"kind-{number % 2}", Row).merge(row)
            bounded(tally.replicas, "one", Row).merge(row)
            tally.count_error(f"error {number % 4}")
            tally.add_work(f"process {number % 3}", Work(0.5, 0.1, 2.0))
        merged.merge(msgspec.json.decode(msgspec.json.encode(part), type=Tally))
    assert msgspec.to_builtins(merged.first_turns).keys() == msgspec.to_builtins(whole.first_turns).keys()
    for (name, mine), (_, other) in zip(rows_of(merged), rows_of(whole), strict=True):
        assert (mine.requests, mine.prompt_tokens, mine.cached_tokens) == (
            other.requests,
            other.prompt_tokens,
            other.cached_tokens,
        ), name
        assert mine.ttft.buckets == other.ttft.buckets
    assert merged.errors == whole.errors
    assert merged.work["process 1"].seconds == 20


def test_new_tallies_share_nothing():
    """What one tally counts is not in the next."""
    first = Tally()
    first.count_error("x")
    bounded(first.first_turns, "chat", Row).latency.add(1.0)
    assert Tally() == Tally(first_turns={}, errors={})
    assert Row().latency.buckets == {}


def test_names_are_bounded():
    """A server that invents replicas or errors cannot fill the memory: what comes late counts as others."""
    tally = Tally()
    for number in range(MAX_NAMES + 50):
        tally.count_error(f"error {number}")
        bounded(tally.replicas, f"replica {number}", Row).requests += 1
    assert len(tally.errors) <= MAX_NAMES + 1
    assert tally.errors[OTHERS] == 50
    assert tally.replicas[OTHERS].requests == 50


def test_summary_tells_cold_from_warm():
    """First and later turns have rows of their own, with percentiles and the hit rate in tokens."""
    tally = Tally(
        first_turns={"chat": row_of(0.8, prompt=1000, requests=4)},
        later_turns={"chat": row_of(0.05, prompt=2000, cached=1800, requests=4)},
    )
    summary = as_json(tally, {"host": "http://x"})
    assert summary["rows"]["chat turn 1"]["hit_rate"] == 0
    assert summary["rows"]["all turn 2+ (warm)"]["hit_rate"] == pytest.approx(0.9)
    assert summary["rows"]["all"]["hit_rate"] == pytest.approx(7200 / 12000)
    assert summary["rows"]["all turn 1 (cold)"]["ttft_seconds"]["p95"] == pytest.approx(0.8, rel=0.01)
    assert summary["rows"]["all"]["requests"] == 8
    text = as_text(tally, {"host": "http://x"})
    assert "90.0%" in text
    assert "http://x" in text
    assert "WARNING" not in text


def test_generator_says_when_it_is_the_bottleneck():
    """Late wake-ups, a busy core, or a trace behind its schedule are named; a rare late one is not."""
    calm = Tally(first_turns={"chat": row_of(0.1)})
    for _ in range(1000):
        calm.lag.add(0.001)
    calm.lag.add(0.5)
    calm.add_work("1", Work(0.5, 0.0, 1.0))
    assert limits_exceeded(calm) == []
    for spoil in (
        lambda tally: [tally.lag.add(0.1) for _ in range(20)],
        lambda tally: tally.add_work("2", Work(0.95, 0.0, 1.0)),
        lambda tally: tally.behind.add(0.2),
    ):
        tally = msgspec.convert(msgspec.to_builtins(calm), Tally)
        spoil(tally)
        assert len(limits_exceeded(tally)) == 1
        assert "WARNING: the generator is a bottleneck" in as_text(tally, {})
        assert as_json(tally, {})["generator"]["is_bottleneck"]


def test_advice_follows_from_the_cause():
    """A busy process wants more of them; one that others keep from its CPU wants priority."""
    late = Tally(first_turns={"chat": row_of(0.1)})
    for _ in range(10):
        late.lag.add(0.2)
    for work, advice in ((Work(0.9, 0.05, 1.0), "--processes"), (Work(0.2, 0.3, 1.0), "nice")):
        late.work = {"1": work}
        assert advice in as_text(late, {}).splitlines()[-1]


def test_nothing_sent_is_said():
    """A test that sent nothing shows no table of dashes."""
    assert as_text(Tally(), {}) == "Nothing was sent."
