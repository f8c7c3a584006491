"""Sums of finished requests, and the rates that come of them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.explain.misses import Reason
from router.history.tallies import NUM_COLUMNS, Column, Rates, Tally, sum_of
from tests.router.finished_requests import finished

TOKENS = st.integers(0, 200_000)
REQUESTS = st.builds(
    finished,
    prompt=TOKENS,
    cached=st.none() | TOKENS,
    outcome=st.sampled_from(["ok", "refused", "failed", "broken", "cancelled"]),
    expected_cached_tokens=TOKENS,
    available_cached_tokens=TOKENS,
    seconds_per_token=st.sampled_from([0.0, 1e-5, 0.000_25]),
    misses=st.none() | st.dictionaries(st.sampled_from(Reason), TOKENS),
)


def row_of(records):
    """Their tally's sums."""
    tally = Tally()
    for record in records:
        tally.add(record)
    return tally.row()


def added(*rows):
    """Rows added up."""
    return sum_of([(0,) * NUM_COLUMNS, *rows])


@given(st.lists(REQUESTS, max_size=12))
def test_sums_are_those_of_a_plain_model(records):
    """Every request counts; tokens count only where the engine said what it had cached."""
    reported = [record for record in records if record.usage.cached_tokens is not None]
    row = row_of(records)
    assert row[Column.REQUESTS] == len(records)
    assert row[Column.FAILURES] == sum(record.outcome in ("failed", "broken") for record in records)
    assert row[Column.PROMPT_TOKENS] == sum(record.usage.prompt_tokens for record in reported)
    assert row[Column.AVAILABLE_TOKENS] == sum(record.available_cached_tokens for record in reported)
    assert row[Column.PREDICTED_TOKENS] == sum(record.expected_cached_tokens for record in reported)
    assert row[Column.DELIVERED_TOKENS] == sum(record.usage.cached_tokens for record in reported)
    saved = sum(record.usage.cached_tokens * record.seconds_per_token for record in reported)
    assert row[Column.SAVED_MICROSECONDS] / 1e6 == pytest.approx(saved, abs=1e-6 * (1 + len(reported)))
    for place, reason in enumerate(Reason):
        expected = sum((record.misses or {}).get(reason, 0) for record in reported)
        assert row[Column.FIRST_MISS + place] == expected


@given(st.lists(REQUESTS, max_size=8), st.lists(REQUESTS, max_size=8), st.lists(REQUESTS, max_size=8))
def test_rows_add_up_in_any_grouping(first, second, third):
    """It does not matter which tally counted a request, nor in which order tallies are added."""
    one, two, three = row_of(first), row_of(second), row_of(third)
    whole = row_of([*first, *second, *third])
    assert added(added(one, two), three) == whole
    assert added(one, added(two, three)) == whole
    assert added(three, one, two) == whole


def test_rates_are_shares_of_the_prompt_tokens():
    """The JSON is what the admin API promises, with every reason."""
    record = finished(misses={Reason.COLD: 30, Reason.TAIL: 6}, outcome="broken")
    assert msgspec.json.decode(msgspec.json.encode(Rates.of(row_of([record])))) == {
        "requests": 1,
        "failures": 1,
        "prompt_tokens": 100,
        "available_tokens": 80,
        "predicted_tokens": 70,
        "delivered_tokens": 64,
        "available": 0.8,
        "predicted": 0.7,
        "delivered": 0.64,
        "misses": {
            "cold": 30,
            "diverged": 0,
            "re_rendered": 0,
            "evicted": 0,
            "replica_lost": 0,
            "diverted": 0,
            "other_namespace": 0,
            "tail": 6,
            "unknown": 0,
        },
        "saved_tokens": 64,
        "saved_seconds": 0.064,
        "priced_tokens": 64,
    }


def test_rates_without_prompts_are_unknown():
    """No prompt tokens: the rates are null, not zero."""
    rates = Rates.of(row_of([finished(cached=None)]))
    assert (rates.requests, rates.prompt_tokens) == (1, 0)
    assert (rates.available, rates.predicted, rates.delivered) == (None, None, None)


def test_nothing_is_claimed_where_no_pace_was_measured():
    """Tokens are saved all the same, and the time is unknown: not zero."""
    rates = Rates.of(row_of([finished(seconds_per_token=0.0)]))
    assert (rates.saved_tokens, rates.saved_seconds) == (64, None)
    both = Rates.of(row_of([finished(seconds_per_token=0.0), finished()]))
    assert (both.saved_tokens, both.saved_seconds, both.priced_tokens) == (128, 0.064, 64)
    assert Rates.of(row_of([finished(cached=0, seconds_per_token=0.0)])).saved_seconds == 0.0
