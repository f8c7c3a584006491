"""Finished requests, counted until Prometheus' own counters are told.

A request moves some twenty of those, each behind a lock and a look-up of its labels: 10 us and more. Here it
moves plain numbers of the requests that have all labels in common with it, which are told together later.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from router.history.record import RequestRecord
from router.history.tally import Tally

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
DECISION_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)


class Durations:
    """How many took how long, in seconds."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Up to each bound; the last one of what lies above all."""
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds


class RequestCounts:
    """Of requests that are alike in all labels."""

    __slots__ = ("decision", "held", "retries", "tally", "ttft")

    def __init__(self) -> None:
        self.tally = Tally()
        self.retries = 0
        self.ttft = Durations(LATENCY_BUCKETS)
        self.held = Durations(LATENCY_BUCKETS)
        self.decision = Durations(DECISION_BUCKETS)

    def add(self, record: RequestRecord, ttft: float | None) -> None:
        """Count a finished request; ``ttft`` in seconds."""
        self.tally.add(record)
        if record.attempts > 1:
            self.retries += record.attempts - 1
        if record.replica:
            self.decision.add(record.decision_seconds)
            self.held.add(record.held_seconds)
        if ttft is not None:
            self.ttft.add(ttft)
