"""Prometheus' text, made of the snapshots of all processes that are one router."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeAlias

from prometheus_client import Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from router.health.health import KINDS
from router.history.tallies import REASON_NAMES, Column, Rows, add_row
from router.observe.fleet_gauges import Gauge
from router.observe.snapshots import DECISION_BUCKETS, LATENCY_BUCKETS, Durations, Ended, Snapshot

ARM_LABELS = ("policy", "arm")
"""Labels that say by which policy a request was decided, and in which arm of an experiment; empty without a
decision."""


BY_ARM = {
    "warmroute_prompt_tokens": Column.PROMPT_TOKENS,
    "warmroute_predicted_cached_tokens": Column.PREDICTED_TOKENS,
    "warmroute_delivered_cached_tokens": Column.DELIVERED_TOKENS,
    "warmroute_available_cached_tokens": Column.AVAILABLE_TOKENS,
}
"""Counters of tokens by replica and arm."""
DOCUMENTATION = {
    "warmroute_prompt_tokens": "Prompt tokens of requests whose engine reported how many it had cached",
    "warmroute_predicted_cached_tokens": "Prompt tokens the chosen replica was believed to hold",
    "warmroute_delivered_cached_tokens": "Prompt tokens engines found in their cache",
    "warmroute_available_cached_tokens": "Prompt tokens that some replica was believed to hold",
    "warmroute_replica_requests": "Requests by replica and reason",
    "warmroute_replica_failures": "Requests that failed at a replica, or broke off",
    "warmroute_saved_prefill_seconds": "Cached prompt tokens at the pace at which replicas compute others",
    "warmroute_recomputed_tokens": "Prompt tokens that engines computed, by why they had to",
    "warmroute_requests": "Requests by how they ended",
    "warmroute_retries": "Attempts that failed before the first byte and were repeated",
    "warmroute_time_to_first_token_seconds": "From the request's arrival to the first byte of its answer",
    "warmroute_held_seconds": "How long requests waited in the router for room at an engine",
    "warmroute_decision_seconds": "Time to choose a replica",
}

Sums: TypeAlias = Counter[tuple[str, ...]]


def exposition(snapshots: Sequence[Snapshot], gauges: Iterable[Gauge]) -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(
        _Once([*_of_rows(rows_of(snapshots)), *_of_ended(snapshots), *_gauges(snapshots, gauges)])
    )


def rows_of(snapshots: Iterable[Snapshot]) -> Rows:
    """Sums of all processes."""
    rows: Rows = {}
    for snapshot in snapshots:
        for labels, row in snapshot.tallies.items():
            add_row(rows, labels, row)
    return rows


class _Once(Collector):
    """Metrics that have been collected."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _of_rows(rows: Rows) -> Iterator[Metric]:
    requests, failures, saved, recomputed = Sums(), Sums(), Sums(), Sums()
    by_arm = {name: Sums() for name in BY_ARM}
    for (replica, _, policy, arm, reason), row in rows.items():
        requests[replica, reason] += row[Column.REQUESTS]
        if row[Column.FAILURES]:
            failures[(replica,)] += row[Column.FAILURES]
        if not row[Column.PROMPT_TOKENS]:  # no engine has reported what it had cached
            continue
        for name, column in BY_ARM.items():
            by_arm[name][replica, policy, arm] += row[column]
        if row[Column.PRICED_TOKENS]:  # without a pace it is not known, and not 0
            saved[(replica,)] += row[Column.SAVED_MICROSECONDS]
        for why, tokens in zip(REASON_NAMES, row[Column.FIRST_MISS :], strict=True):
            if tokens:
                recomputed[replica, why] += tokens
    yield _counter("warmroute_replica_requests", ("replica", "reason"), requests)
    yield _counter("warmroute_replica_failures", ("replica",), failures)
    for name, tokens_by_arm in by_arm.items():
        yield _counter(name, ("replica", *ARM_LABELS), tokens_by_arm)
    yield _counter("warmroute_recomputed_tokens", ("replica", "reason"), recomputed)
    seconds = {labels: microseconds / 1e6 for labels, microseconds in saved.items()}
    yield _counter("warmroute_saved_prefill_seconds", ("replica",), seconds)


def _of_ended(snapshots: Iterable[Snapshot]) -> Iterator[Metric]:
    requests = Sums()
    by_arm: defaultdict[tuple[str, ...], Ended] = defaultdict(Ended)
    together = Ended()
    for snapshot in snapshots:
        for labels, ended in snapshot.ended.items():
            model, _, _, policy, arm = labels
            requests[labels] += ended.requests
            by_arm[model, policy, arm].merge(ended)
            together.merge(ended)
    ttfts = {labels: ended.ttft for labels, ended in by_arm.items()}
    held = {labels: ended.held for labels, ended in by_arm.items()}
    names = ("model", *ARM_LABELS)
    yield _counter("warmroute_requests", ("model", "path", "outcome", *ARM_LABELS), requests)
    yield _counter("warmroute_retries", (), {(): together.retries})
    yield _histogram("warmroute_time_to_first_token_seconds", names, LATENCY_BUCKETS, ttfts)
    yield _histogram("warmroute_held_seconds", names, LATENCY_BUCKETS, held)
    yield _histogram("warmroute_decision_seconds", (), DECISION_BUCKETS, {(): together.decision})


def _gauges(snapshots: Sequence[Snapshot], gauges: Iterable[Gauge]) -> Iterator[Metric]:
    alive = [snapshot for snapshot in snapshots if snapshot.gauges]
    for gauge in gauges:
        values = [snapshot.gauges[gauge.name] for snapshot in alive]
        value = sum(values) if gauge.adds_up else max(values)
        yield GaugeMetricFamily(gauge.name, gauge.documentation, value)
    degraded = GaugeMetricFamily("warmroute_degraded", "Degradations that hold", labels=["kind"])
    for kind in KINDS:
        degraded.add_metric([kind], max(snapshot.degraded.get(kind, 0) for snapshot in alive))
    yield degraded


def _counter(name: str, label_names: Sequence[str], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(name, DOCUMENTATION[name], labels=label_names)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(
    name: str,
    label_names: Sequence[str],
    bounds: Sequence[float],
    values: Mapping[tuple[str, ...], Durations],
) -> Metric:
    """A histogram of what has been counted; without labels also of nothing."""
    family = HistogramMetricFamily(name, DOCUMENTATION[name], labels=label_names)
    names = [*map(floatToGoString, bounds), "+Inf"]
    for labels, durations in values.items():
        if any(durations.counts) or not labels:
            buckets = list(zip(names, accumulate(durations.counts), strict=True))
            family.add_metric(labels, buckets, durations.total)
    return family
