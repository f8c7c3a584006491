"""Prometheus' text, made of the snapshots of all processes that are one router."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from router.health.health import KINDS
from router.history.tallies import LABELS, Rows
from router.history.tally import REASON_NAMES, Column, add_row
from router.observe.fleet_gauges import FleetGauge
from router.observe.snapshots import DECISION_BUCKETS, LATENCY_BUCKETS, Durations, Ended, Snapshot

ARM_LABELS = ("policy", "arm")
"""By which policy a request was decided, and whether as a control in an experiment; empty without a
decision."""


class Tallied(NamedTuple):
    """A counter that is a column of rows."""

    name: str
    documentation: str
    column: Column
    labels: tuple[str, ...]
    shown_with: Column
    """Rows without any of these are left out."""
    unit: float = 1.0
    """What one of the column counts for."""


TALLIED = (
    Tallied(
        "warmroute_replica_requests",
        "Requests by replica and reason",
        Column.REQUESTS,
        ("replica", "reason"),
        Column.REQUESTS,
    ),
    Tallied(
        "warmroute_replica_failures",
        "Requests that failed at a replica, or broke off",
        Column.FAILURES,
        ("replica",),
        Column.FAILURES,
    ),
    Tallied(
        "warmroute_prompt_tokens",
        "Prompt tokens of requests whose engine said how many it had cached",
        Column.PROMPT_TOKENS,
        ("replica", *ARM_LABELS),
        Column.PROMPT_TOKENS,
    ),
    Tallied(
        "warmroute_predicted_cached_tokens",
        "Prompt tokens the chosen replica was believed to hold",
        Column.PREDICTED_TOKENS,
        ("replica", *ARM_LABELS),
        Column.PROMPT_TOKENS,
    ),
    Tallied(
        "warmroute_delivered_cached_tokens",
        "Prompt tokens engines found in their cache",
        Column.DELIVERED_TOKENS,
        ("replica", *ARM_LABELS),
        Column.PROMPT_TOKENS,
    ),
    Tallied(
        "warmroute_available_cached_tokens",
        "Prompt tokens that some replica was believed to hold",
        Column.AVAILABLE_TOKENS,
        ("replica", *ARM_LABELS),
        Column.PROMPT_TOKENS,
    ),
    Tallied(
        "warmroute_saved_prefill_seconds",
        "Cached prompt tokens at the pace at which their replica computes others",
        Column.SAVED_MICROSECONDS,
        ("replica",),
        Column.PROMPT_TOKENS,
        1e-6,
    ),
)


def exposition(snapshots: Sequence[Snapshot], gauges: Iterable[FleetGauge]) -> bytes:
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
    for name, documentation, column, label_names, shown_with, unit in TALLIED:
        places = [LABELS.index(name) for name in label_names]
        sums: Counter[tuple[str, ...]] = Counter()
        for labels, row in rows.items():
            if row[shown_with]:
                sums[tuple(labels[place] for place in places)] += row[column]
        values = {labels: total * unit for labels, total in sums.items()}
        yield _counter(name, documentation, label_names, values)
    recomputed: Counter[tuple[str, ...]] = Counter()
    for (replica, *_), row in rows.items():
        for reason, tokens in zip(REASON_NAMES, row[Column.FIRST_MISS :], strict=True):
            if tokens:
                recomputed[replica, reason] += tokens
    yield _counter(
        "warmroute_recomputed_tokens",
        "Prompt tokens that engines computed, by why they had to",
        ("replica", "reason"),
        recomputed,
    )


def _of_ended(snapshots: Iterable[Snapshot]) -> Iterator[Metric]:
    requests: Counter[tuple[str, ...]] = Counter()
    by_arm: defaultdict[tuple[str, ...], Ended] = defaultdict(Ended)
    together = Ended()
    for snapshot in snapshots:
        for labels, ended in snapshot.ended.items():
            model, _, policy, arm = labels
            requests[labels] += ended.requests
            by_arm[model, policy, arm].merge(ended)
            together.merge(ended)
    yield _counter(
        "warmroute_requests", "Requests by how they ended", ("model", "outcome", *ARM_LABELS), requests
    )
    yield _counter(
        "warmroute_retries",
        "Attempts that failed before the first byte and were repeated",
        (),
        {(): together.retries},
    )
    yield _histogram(
        "warmroute_time_to_first_token_seconds",
        "From the request's arrival to the first byte of its answer",
        ("model", *ARM_LABELS),
        LATENCY_BUCKETS,
        {labels: ended.ttft for labels, ended in by_arm.items() if any(ended.ttft.counts)},
    )
    yield _histogram(
        "warmroute_held_seconds",
        "How long requests waited in the router for room at an engine",
        ("model", *ARM_LABELS),
        LATENCY_BUCKETS,
        {labels: ended.held for labels, ended in by_arm.items() if any(ended.held.counts)},
    )
    yield _histogram(
        "warmroute_decision_seconds",
        "Time to choose a replica",
        (),
        DECISION_BUCKETS,
        {(): together.decision},
    )


def _gauges(snapshots: Sequence[Snapshot], gauges: Iterable[FleetGauge]) -> Iterator[Metric]:
    alive = [snapshot for snapshot in snapshots if snapshot.gauges]
    for gauge in gauges:
        values = [snapshot.gauges[gauge.name] for snapshot in alive]
        value = sum(values) if gauge.adds_up else max(values)
        yield GaugeMetricFamily(gauge.name, gauge.documentation, value)
    degraded = GaugeMetricFamily("warmroute_degraded", "Degradations that hold", labels=["kind"])
    for kind in KINDS:
        degraded.add_metric([kind], max(snapshot.degraded.get(kind, 0) for snapshot in alive))
    yield degraded


def _counter(
    name: str, documentation: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _histogram(
    name: str,
    documentation: str,
    labels: Sequence[str],
    bounds: Sequence[float],
    values: Mapping[tuple[str, ...], Durations],
) -> Metric:
    family = HistogramMetricFamily(name, documentation, labels=labels)
    names = [*map(floatToGoString, bounds), "+Inf"]
    for label_values, durations in values.items():
        buckets = list(zip(names, accumulate(durations.counts), strict=True))
        family.add_metric(label_values, buckets, durations.total)
    return family
