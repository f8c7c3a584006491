"""Prometheus metrics of a router, in a registry of its own.

Where several processes are one router to the outside (`router.workers`), each keeps its numbers in files that
all of them read (``prometheus_client``'s multiprocess mode), and any of them answers for all. The files are
named after the worker's number and not its process: one that is started again counts on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from cluster.fleet import Fleet
from cluster.wire import ReplicaState
from router.health import KINDS, Health
from router.replica_totals import ReplicaTotals, replica_totals

if TYPE_CHECKING:
    from router.accounting import RequestRecord

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
ARM_LABELS = ("policy", "arm")
"""By which policy a request was decided, and whether as a control in an experiment; empty without a
decision."""
DECISION_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)
REFRESH_SECONDS = 1.0
"""How old the gauges of other processes may be."""
FILES = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with which ``prometheus_client`` is told where files are shared."""

LABELS_REMEMBERED = 4096
"""For each metric."""
Labelled = TypeVar("Labelled", Counter, Histogram)

AmongWorkers = Literal["livesum", "livemax"]
"""What a gauge shows for several processes: their sum, or, of what all of them see, the largest."""


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
        self._gauge(
            "warmroute_open_bookings",
            "Requests booked on replicas",
            lambda: fleet.open_bookings,
            "livesum",
        )
        self._gauge(
            "warmroute_waiting_requests",
            "Booked requests that wait in the router for room at an engine",
            lambda: fleet.waiting_requests,
            "livesum",
        )
        self._gauge("warmroute_index_blocks", "Distinct blocks in the prefix index", lambda: len(fleet.index))
        self._gauge(
            "warmroute_index_refused_blocks",
            "Blocks not taken in because the index was full",
            lambda: fleet.index.refused_blocks,
        )
        self._gauge(
            "warmroute_index_ghosts",
            "Blocks remembered that nobody holds any more",
            lambda: len(fleet.index.ghosts),
        )
        self._gauge("warmroute_redis_reachable", "1 while Redis answers", lambda: fleet.store_reachable)
        self._gauge(
            "warmroute_other_routers",
            "Other routers whose bookings are known",
            lambda: len(fleet.peers.by_router()),
        )
        self._gauge(
            "warmroute_ready_replicas",
            "Replicas that take requests",
            lambda: sum(r.lease.state is ReplicaState.READY for r in fleet.replicas.values()),
        )

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
        """Count a finished request; ``ttft`` in seconds."""
        arm = (record.policy, record.arm)
        self._requests(record.model, record.outcome, *arm).inc()
        if record.attempts > 1:
            self._retries.inc(record.attempts - 1)
        if record.replica:
            self._replica_requests(record.replica, record.reason).inc()
            if record.outcome in ("failed", "broken"):
                self._replica_failures(record.replica).inc()
            self._decision.observe(record.decision_seconds)
            self._held(record.model, *arm).observe(record.held_seconds)
        cached = record.usage.cached_tokens if record.usage is not None else None
        if record.replica and record.usage is not None and cached is not None:
            self._prompt_tokens(record.replica, *arm).inc(record.usage.prompt_tokens)
            self._predicted(record.replica, *arm).inc(record.expected_cached_tokens)
            self._available(record.replica, *arm).inc(record.available_cached_tokens)
            self._delivered(record.replica, *arm).inc(cached)
            self._saved_seconds(record.replica).inc(cached * record.seconds_per_token)
            for reason, tokens in (record.misses or {}).items():
                self._recomputed(record.replica, reason).inc(tokens)
        if ttft is not None:
            self._ttft(record.model, *arm).observe(ttft)

    async def run(self) -> None:
        """Until cancelled, show other processes how the gauges of this one stand."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            if self._files:
                self.refresh()

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
        if not self._files:
            return self._registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._files)  # type: ignore[no-untyped-call]
        return registry

    def _gauge(
        self, name: str, documentation: str, read: Callable[[], float], among: AmongWorkers = "livemax"
    ) -> None:
        gauge = Gauge(name, documentation, registry=self._registry, multiprocess_mode=among)
        self._gauges.append((gauge, read))
