"""Prometheus metrics of a router, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cluster.fleet import Fleet
from cluster.wire import ReplicaState
from router.health import KINDS, Health

if TYPE_CHECKING:
    from router.accounting import RequestRecord

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
ARM_LABELS = ("policy", "arm")
"""By which policy a request was decided, and whether as a control in an experiment; empty without a
decision."""
DECISION_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)


class Metrics:
    """Counters that records feed, and gauges that read the fleet when they are asked."""

    def __init__(self, fleet: Fleet) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "warmroute_requests",
            "Requests by how they ended",
            ["model", "outcome", *ARM_LABELS],
            registry=registry,
        )
        self._replica_requests = Counter(
            "warmroute_replica_requests",
            "Requests by replica and reason",
            ["replica", "reason"],
            registry=registry,
        )
        self._prompt_tokens = Counter(
            "warmroute_prompt_tokens",
            "Prompt tokens as engines counted them",
            ["replica", *ARM_LABELS],
            registry=registry,
        )
        self._predicted = Counter(
            "warmroute_predicted_cached_tokens",
            "Prompt tokens the chosen replica was believed to hold",
            ["replica", *ARM_LABELS],
            registry=registry,
        )
        self._delivered = Counter(
            "warmroute_delivered_cached_tokens",
            "Prompt tokens engines found in their cache",
            ["replica", *ARM_LABELS],
            registry=registry,
        )
        self._retries = Counter(
            "warmroute_retries",
            "Attempts that failed before the first byte and were repeated",
            registry=registry,
        )
        self._ttft = Histogram(
            "warmroute_time_to_first_token_seconds",
            "From the request's arrival to the first byte of its answer",
            ["model", *ARM_LABELS],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._decision = Histogram(
            "warmroute_decision_seconds",
            "Time to choose a replica",
            buckets=DECISION_BUCKETS,
            registry=registry,
        )
        self._held = Histogram(
            "warmroute_held_seconds",
            "How long requests waited in the router for room at an engine",
            ["model", *ARM_LABELS],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._gauge("warmroute_open_bookings", "Requests booked on replicas", lambda: fleet.open_bookings)
        self._gauge(
            "warmroute_waiting_requests",
            "Booked requests that wait in the router for room at an engine",
            lambda: fleet.waiting_requests,
        )
        self._gauge("warmroute_index_blocks", "Distinct blocks in the prefix index", lambda: len(fleet.index))
        self._gauge(
            "warmroute_index_refused_blocks",
            "Blocks not taken in because the index was full",
            lambda: fleet.index.refused_blocks,
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
        gauge = Gauge("warmroute_degraded", "Degradations that hold", ["kind"], registry=self._registry)
        for kind in KINDS:
            gauge.labels(kind).set_function(partial(health.count, kind))

    def observe(self, record: RequestRecord, ttft: float | None) -> None:
        """Count a finished request; ``ttft`` in seconds."""
        arm = (record.policy, record.arm)
        self._requests.labels(record.model, record.outcome, *arm).inc()
        if record.attempts > 1:
            self._retries.inc(record.attempts - 1)
        if record.replica:
            self._replica_requests.labels(record.replica, record.reason).inc()
            self._decision.observe(record.decision_seconds)
            self._held.labels(record.model, *arm).observe(record.held_seconds)
        if record.replica and record.usage is not None:
            self._prompt_tokens.labels(record.replica, *arm).inc(record.usage.prompt_tokens)
            self._predicted.labels(record.replica, *arm).inc(record.expected_cached_tokens)
            self._delivered.labels(record.replica, *arm).inc(record.usage.cached_tokens or 0)
        if ttft is not None:
            self._ttft.labels(record.model, *arm).observe(ttft)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        Gauge(name, documentation, registry=self._registry).set_function(read)
