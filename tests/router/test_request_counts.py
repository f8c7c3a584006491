"""Requests counted together show as Prometheus' own counters would have counted them one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from cluster.fleet.fleet import Fleet
from router.history.record import RequestRecord
from router.http.sse import PromptTokensDetails, Usage
from router.observe.metrics import Metrics
from router.observe.request_counts import DECISION_BUCKETS, LATENCY_BUCKETS

NAME = "warmroute_time_to_first_token_seconds"


def samples(metrics):
    """What is shown, by name and labels; not when each was first shown."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


times = st.floats(0, 200) | st.sampled_from(LATENCY_BUCKETS + DECISION_BUCKETS)


@given(st.lists(times, max_size=20))
def test_histograms_are_those_of_prometheus(seconds):
    """Also for times that are exactly a bucket's bound, and beyond the last one."""
    metrics = Metrics(Fleet())
    direct = Histogram("direct", "x", buckets=LATENCY_BUCKETS, registry=CollectorRegistry())
    for each in seconds:
        metrics.observe(RequestRecord("id", "/", model="m", outcome="ok"), ttft=each)
        direct.observe(each)
    [family] = direct.collect()
    found = samples(metrics)
    for sample in family.samples:
        if not sample.name.endswith("_created"):
            labels = {**sample.labels, "model": "m", "policy": "", "arm": ""}
            shown = found.get((sample.name.replace("direct", NAME), *sorted(labels.items())), 0)
            assert shown == pytest.approx(sample.value)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_when_it_is_told_makes_no_difference(told):
    """Told after each request, or after some, or only when somebody asks: the sums are the same."""
    often, once = Metrics(Fleet()), Metrics(Fleet())
    for number, now in enumerate(told):
        record = RequestRecord(
            "id", "/", model="m", replica="ab"[number % 2], reason="warm", attempts=number, outcome="ok",
            usage=Usage(100, 1, PromptTokensDetails(40)), expected_cached_tokens=number,
        )  # fmt: skip
        for metrics in (often, once):
            metrics.observe(record, ttft=0.1 * number)
        if now:
            often.fold()
    expected = samples(once)
    assert samples(often) == pytest.approx(expected)
    assert sum(value for (name, *_), value in expected.items() if name == "warmroute_requests_total") == len(
        told
    )
