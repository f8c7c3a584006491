"""Durations are shown as Prometheus' own histograms would show them."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from cluster.fleet.fleet import Fleet
from router.history.record import RequestRecord
from router.history.tallies import Tallies
from router.observe.metrics import Metrics
from router.observe.snapshots import DECISION_BUCKETS, LATENCY_BUCKETS

HEALTHY = SimpleNamespace(degradations=lambda: ())
NAME = "warmroute_time_to_first_token_seconds"


def samples(metrics):
    """What is shown, by name and labels."""
    metrics.refresh()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


times = st.floats(0, 200) | st.sampled_from(LATENCY_BUCKETS + DECISION_BUCKETS)


@given(st.lists(times, max_size=20))
def test_histograms_are_those_of_prometheus(seconds):
    """Also for times that are exactly a bucket's bound, and beyond the last one."""
    metrics = Metrics(Fleet(), HEALTHY, Tallies())
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
