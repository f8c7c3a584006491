"""Prometheus metrics of a router, in a registry of its own.

Where several processes are one router to the outside (`router.processes`), each keeps its numbers in files
that all of them read (``prometheus_client``'s multiprocess mode), and any of them answers for all. The
files are named after the worker's number and not its process: one that is started again counts on.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from cluster.fleet.fleet import Fleet
from router.health.health import KINDS, Health
from router.history.record import RequestRecord
from router.history.tally import REASON_NAMES, Tally
from router.observe.fleet_gauges import fleet_gauges
from router.observe.replica_totals import ReplicaTotals, replica_totals
from router.observe.request_counts import DECISION_BUCKETS, LATENCY_BUCKETS, Durations, RequestCounts

ARM_LABELS = ("policy", "arm")
"""By which policy a request was decided, and whether as a control in an experiment; empty without a
decision."""
NO_ARM = ("", "")
REFRESH_SECONDS = 1.0
"""How old the numbers of other processes may be. A process that is killed takes what it counted since then
with it."""
FILES = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with which ``prometheus_client`` is told where files are shared."""

LABELS_REMEMBERED = 4096
"""For each metric."""
Labelled = TypeVar("Labelled", Counter, Histogram)


def share_with_other_processes(directory: Path, number: int) -> None:
    """From now on new metrics of this process are kept in files there; ``number`` tells processes apart."""
    os.environ[FILES] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def labelled(metric: Labelled) -> Callable[..., Labelled]:
    """A metric's ``labels``, remembering what it gave: that takes a tenth of the time."""
    return lru_cache(LABELS_REMEMBERED)(metric.labels)


class Metrics:
    """Counters that records feed, and gauges that read the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._files = os.environ.get(FILES)
        self._gauges: list[tuple[Gauge, Callable[[], float]]] = []
        self._counts: dict[tuple[str, str, str, str, str, str], RequestCounts] = {}
        """Since the last `fold`, by model, outcome, policy, arm, replica and reason."""
        self._counting = threading.Lock()
        self._registry = registry = CollectorRegistry()
        self._requests = labelled(
            Counter(
                "warmroute_requests",
                "Requests by how they ended",
                ["model", "outcome", *ARM_LABELS],
                registry=registry,
            )
        )
        self._replica_requests = labelled(
            Counter(
                "warmroute_replica_requests",
                "Requests by replica and reason",
                ["replica", "reason"],
                registry=registry,
            )
        )
        self._replica_failures = labelled(
            Counter(
                "warmroute_replica_failures",
                "Requests that failed at a replica, or broke off",
                ["replica"],
                registry=registry,
            )
        )
        self._prompt_tokens = labelled(
            Counter(
                "warmroute_prompt_tokens",
                "Prompt tokens of requests whose engine said how many it had cached",
                ["replica", *ARM_LABELS],
                registry=registry,
            )
        )
        self._predicted = labelled(
            Counter(
                "warmroute_predicted_cached_tokens",
                "Prompt tokens the chosen replica was believed to hold",
                ["replica", *ARM_LABELS],
                registry=registry,
            )
        )
        self._delivered = labelled(
            Counter(
                "warmroute_delivered_cached_tokens",
                "Prompt tokens engines found in their cache",
                ["replica", *ARM_LABELS],
                registry=registry,
            )
        )
        self._available = labelled(
            Counter(
                "warmroute_available_cached_tokens",
                "Prompt tokens that some replica was believed to hold",
                ["replica", *ARM_LABELS],
                registry=registry,
            )
        )
        self._recomputed = labelled(
            Counter(
                "warmroute_recomputed_tokens",
                "Prompt tokens that engines computed, by why they had to",
                ["replica", "reason"],
                registry=registry,
            )
        )
        self._saved_seconds = labelled(
            Counter(
                "warmroute_saved_prefill_seconds",
                "Cached prompt tokens at the pace at which their replica computes others",
                ["replica"],
                registry=registry,
            )
        )
        self._retries = Counter(
            "warmroute_retries",
            "Attempts that failed before the first byte and were repeated",
            registry=registry,
        )
        self._ttft = labelled(
            Histogram(
                "warmroute_time_to_first_token_seconds",
                "From the request's arrival to the first byte of its answer",
                ["model", *ARM_LABELS],
                buckets=LATENCY_BUCKETS,
                registry=registry,
            )
        )
        self._decision = Histogram(
            "warmroute_decision_seconds",
            "Time to choose a replica",
            buckets=DECISION_BUCKETS,
            registry=registry,
        )
        self._held = labelled(
            Histogram(
                "warmroute_held_seconds",
                "How long requests waited in the router for room at an engine",
                ["model", *ARM_LABELS],
                buckets=LATENCY_BUCKETS,
                registry=registry,
            )
        )
        for name, documentation, read, among in fleet_gauges(fleet):
            gauge = Gauge(name, documentation, registry=registry, multiprocess_mode=among)
            self._gauges.append((gauge, read))

    def watch(self, health: Health) -> None:
        """Show how many degradations of each kind hold."""
        gauge = Gauge(
            "warmroute_degraded",
            "Degradations that hold",
            ["kind"],
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._gauges += [(gauge.labels(kind), partial(health.count, kind)) for kind in KINDS]

    def observe(self, record: RequestRecord, ttft: float | None) -> None:
        """Count a finished request; ``ttft`` in seconds. It is shown from the next `fold` on."""
        assignment = record.assignment
        policy, arm = (assignment.policy_name, assignment.arm) if assignment is not None else NO_ARM
        labels = (record.model, record.outcome, policy, arm, record.replica, record.reason)
        with self._counting:
            counts = self._counts.get(labels)
            if counts is None:
                counts = self._counts[labels] = RequestCounts()
            counts.add(record, ttft)

    def fold(self) -> None:
        """Tell Prometheus' counters what was counted since the last time. Any thread may."""
        with self._counting:
            folded, self._counts = self._counts, {}
        for (model, outcome, policy, arm, replica, reason), counts in folded.items():
            tally = counts.tally
            self._requests(model, outcome, policy, arm).inc(tally.requests)
            self._retries.inc(counts.retries)
            if any(counts.ttft.counts):
                _add(self._ttft(model, policy, arm), counts.ttft)
            if replica:
                self._fold_replica(replica, reason, (policy, arm), tally)
                _add(self._held(model, policy, arm), counts.held)
                _add(self._decision, counts.decision)

    def _fold_replica(self, replica: str, reason: str, arm: tuple[str, str], tally: Tally) -> None:
        self._replica_requests(replica, reason).inc(tally.requests)
        if tally.failures:
            self._replica_failures(replica).inc(tally.failures)
        if not tally.prompt:  # no engine has said what it had cached
            return
        self._prompt_tokens(replica, *arm).inc(tally.prompt)
        self._predicted(replica, *arm).inc(tally.predicted)
        self._available(replica, *arm).inc(tally.available)
        self._delivered(replica, *arm).inc(tally.delivered)
        self._saved_seconds(replica).inc(tally.saved / 1e6)
        for name, tokens in zip(REASON_NAMES, tally.misses, strict=True):
            if tokens:
                self._recomputed(replica, name).inc(tokens)

    async def run(self) -> None:
        """Until cancelled, show other processes how the numbers of this one stand."""
        try:
            while True:
                await asyncio.sleep(REFRESH_SECONDS)
                self.fold()
                if self._files:
                    self.refresh()
        finally:
            self.fold()

    def refresh(self) -> None:
        """Read the fleet into the gauges."""
        for gauge, read in self._gauges:
            gauge.set(read())

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format. Any thread may ask: a thousand replicas take 0.1 s."""
        return generate_latest(self._of_all_processes())

    def replica_totals(self) -> Mapping[str, ReplicaTotals]:
        """What became of the requests of each replica. Any thread may ask."""
        return replica_totals(self._of_all_processes().collect())

    def _of_all_processes(self) -> CollectorRegistry:
        self.fold()
        if not self._files:
            return self._registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._files)  # type: ignore[no-untyped-call]
        return registry


def _add(histogram: Histogram, durations: Durations) -> None:
    """Many observations at once, for which the library has no method of its own."""
    histogram._sum.inc(durations.total)
    for bucket, count in zip(histogram._buckets, durations.counts, strict=True):
        if count:
            bucket.inc(count)
