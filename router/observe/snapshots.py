"""What a process has counted for Prometheus, in a form that other processes can read and add up.

Where several processes are one router to the outside (`router.processes`), each writes its numbers to a file
that all of them read, and any of them answers for all. The files are named after the worker's number and not
its process: one that is started again counts on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, TypeAlias

import msgspec

from router.history.record import RequestRecord
from router.history.tallies import Rows

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
DECISION_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)

EndedLabels: TypeAlias = tuple[str, str, str, str, str]
"""Model, path, outcome, policy and arm; the last two are empty without a decision."""


class Durations(msgspec.Struct, array_like=True):
    """How many took how long, in seconds."""

    counts: list[int]
    """The number up to each bound, and last of those above all bounds."""
    total: float = 0.0

    @classmethod
    def within(cls, bounds: Sequence[float]) -> Durations:
        """Durations of which none has been counted."""
        return cls([0] * (len(bounds) + 1))

    def add(self, seconds: float, bounds: Sequence[float]) -> None:
        """Count one; the bounds are always the same."""
        self.counts[bisect_left(bounds, seconds)] += 1
        self.total += seconds

    def merge(self, other: Durations) -> None:
        """Add what was counted elsewhere."""
        self.counts = [own + theirs for own, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Ended(msgspec.Struct, array_like=True):
    """How requests that are alike in all labels ended."""

    requests: int = 0
    retries: int = 0
    ttft: Durations = msgspec.field(default_factory=lambda: Durations.within(LATENCY_BUCKETS))
    held: Durations = msgspec.field(default_factory=lambda: Durations.within(LATENCY_BUCKETS))
    decision: Durations = msgspec.field(default_factory=lambda: Durations.within(DECISION_BUCKETS))

    def add(self, record: RequestRecord, ttft: float | None) -> None:
        """Count a finished request; ``ttft`` in seconds."""
        self.requests += 1
        if record.attempts > 1:
            self.retries += record.attempts - 1
        if record.replica:
            self.decision.add(record.decision_seconds, DECISION_BUCKETS)
            self.held.add(record.held_seconds, LATENCY_BUCKETS)
        if ttft is not None:
            self.ttft.add(ttft, LATENCY_BUCKETS)

    def merge(self, other: Ended) -> None:
        """Add what was counted elsewhere."""
        self.requests += other.requests
        self.retries += other.retries
        self.ttft.merge(other.ttft)
        self.held.merge(other.held)
        self.decision.merge(other.decision)


class Snapshot(msgspec.Struct):
    """Everything that one process has counted, and the last values of its gauges."""

    tallies: Rows
    ended: dict[EndedLabels, Ended]
    gauges: dict[str, float]
    """The value of each gauge by its name; empty where the process has died."""
    degraded: dict[str, int]
    """How many degradations of each kind hold."""
    missing_since: dict[str, float]
    """Replicas that were counted and have left the fleet, and when that was seen, in monotonic seconds."""

    def drop(self, replicas: set[str]) -> None:
        """Leave out what was counted of these replicas."""
        if replicas:
            self.tallies = {labels: row for labels, row in self.tallies.items() if labels[0] not in replicas}

    def encode(self) -> bytes:
        """The snapshot as bytes; see `decode`."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(data: bytes) -> Snapshot:
        """The snapshot that `encode` made these bytes of."""
        return msgspec.msgpack.decode(data, type=Snapshot)


class SnapshotFiles:
    """The files of processes that are one router. Each is replaced whole: nobody reads half of one."""

    shared: ClassVar[SnapshotFiles | None] = None
    """The files of this process; None where it is a router alone."""

    def __init__(self, directory: Path, number: int) -> None:
        """``number`` tells the process apart from the others, and stays when it is started again."""
        self._directory = directory
        self._own = directory / f"{number}.counts"

    def write(self, data: bytes) -> None:
        """Replace this process's snapshot."""
        part = self._own.with_suffix(".part")
        with suppress(FileNotFoundError):  # the supervisor has died, and another worker has cleaned up
            part.write_bytes(data)
            part.replace(self._own)

    def read_own(self) -> Snapshot | None:
        """What the process before this one wrote, if there was one."""
        return Snapshot.decode(self._own.read_bytes()) if self._own.exists() else None

    def others(self) -> Iterator[Snapshot]:
        """The snapshots of the other processes."""
        for path in self._directory.glob("*.counts"):
            if path != self._own:
                yield Snapshot.decode(path.read_bytes())

    def drop_gauges(self) -> None:
        """The process has died: what it counted stays, what it showed of the present does not."""
        if (last := self.read_own()) is not None:
            last.gauges = {}
            self.write(last.encode())
