"""The last hour of a deployment: how well caches served, by replica, over all routers.

Requests of this process are counted as they end. Every ten seconds their sums become a finished bucket, which
`router.history.history_sharing` publishes; those of other routers come in through `merge`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Annotated, TypeAlias

import msgspec
import numpy as np

from router.history.buckets import HOUR_BUCKETS, STEP_SECONDS, Buckets
from router.history.latencies import ALL_MODELS, NUM_COUNTS, Latency, LatencyWindow, latencies_of, place_of
from router.history.record import RequestRecord
from router.history.savings import Savings
from router.history.tallies import NUM_COLUMNS, REASON_NAMES, Column, Rates, Row, Tallies, add_row, sum_of

SHOWN = (
    Column.REQUESTS,
    Column.PROMPT_TOKENS,
    Column.AVAILABLE_TOKENS,
    Column.PREDICTED_TOKENS,
    Column.DELIVERED_TOKENS,
)
"""The columns that are shown of each replica over time."""
GRACE_SECONDS = 5.0
"""How long after the end of a bucket the other routers' share of it is waited for."""


_Sum: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class FinishedBucket(msgspec.Struct, frozen=True, array_like=True):
    """What one process counted in one bucket."""

    number: int
    replicas: list[str]
    rows: list[tuple[_Sum, ...]]
    """One for each replica, ordered as `Column`."""
    ttfts: dict[str, list[_Count]]
    """Histograms by model."""


class CompletedBucket(msgspec.Struct, frozen=True, kw_only=True):
    """One bucket over all routers, as the dashboard's stream shows it."""

    time: float
    """When the bucket began."""
    replicas: dict[str, list[int]]
    """Requests, prompt tokens, available, predicted and delivered tokens; those with traffic."""
    misses: dict[str, int]
    """Tokens computed again in the whole fleet, by reason."""


class History:
    """What became of requests, over time."""

    def __init__(self, savings: Savings, clock: Callable[[], float] = time.time) -> None:
        self._savings = savings
        self._clock = clock
        number = int(clock() // STEP_SECONDS)
        self._ends = (number + 1.0) * STEP_SECONDS
        self.tallies = Tallies()
        self._ttfts: dict[str, list[int]] = {}
        self._buckets = Buckets(number)
        self._latencies = LatencyWindow(HOUR_BUCKETS)
        self.finished: deque[bytes] = deque(maxlen=HOUR_BUCKETS)
        """`FinishedBucket` of this process that has not been published, encoded; the oldest go when
        there are too many."""
        self.asked_at = 0.0
        """When somebody last read this history."""
        self._own: deque[tuple[int, int, int]] = deque(maxlen=HOUR_BUCKETS)
        """The number, the requests and the prompt tokens of each bucket of this process."""

    def add(self, record: RequestRecord, ttft: float | None, now: float) -> None:
        """Count a finished request. Those that never came to a replica are not part of any history."""
        if now >= self._ends:
            self.advance(now)
        if not record.replica:
            return
        self.tallies.add(record)
        if (
            ttft is not None
            and record.stream
            and record.outcome == "ok"
            and (usage := record.usage) is not None
        ):
            cached = usage.cached_tokens
            if cached is not None:
                counts = self._ttfts.get(record.model)
                if counts is None:
                    counts = self._ttfts[record.model] = [0] * NUM_COUNTS
                counts[place_of(ttft, warm=2 * cached >= usage.prompt_tokens)] += 1

    def advance(self, now: float) -> None:
        """Finish the current bucket when its time is over."""
        if now < self._ends:
            return
        self.finish()
        number = int(now // STEP_SECONDS)
        self._ends = (number + 1.0) * STEP_SECONDS
        self._buckets.advance(number)
        self._latencies.advance(number)

    def finish(self) -> None:
        """Make a finished bucket of what was counted in this one: it is over, or the process ends."""
        number, rows = self._buckets.number, self.tallies.finish()
        if not rows:
            return
        by_replica: dict[str, Row] = {}
        for (replica, model, *_), row in rows.items():
            self._savings.add(number * STEP_SECONDS, replica, model, row)
            add_row(by_replica, replica, row)
        bucket = FinishedBucket(number, list(by_replica), list(by_replica.values()), self._ttfts)
        self._ttfts = {}
        self.finished.append(msgspec.msgpack.encode(bucket))
        total = sum_of(bucket.rows)
        self._own.append((number, total[Column.REQUESTS], total[Column.PROMPT_TOKENS]))
        self._count(bucket)

    def merge(self, encoded: bytes, newer_than: int) -> int:
        """Count what another process has published, unless its number says that it is old. Returns the
        number. Raises `ValueError`, and counts nothing, when it was not made as here: by another version."""
        bucket = _bucket_decoder.decode(encoded)
        if bucket.number > newer_than:
            self._count(bucket)
        return max(bucket.number, newer_than)

    def _count(self, bucket: FinishedBucket) -> None:
        rows = np.array(bucket.rows, np.int64)
        if rows.shape != (len(bucket.replicas), NUM_COLUMNS):
            raise ValueError("other columns")
        if any(len(counts) != NUM_COUNTS for counts in bucket.ttfts.values()):
            raise ValueError("other bins")
        number = min(bucket.number, self._buckets.number)  # another router's clock may be ahead
        if number <= self._buckets.number - HOUR_BUCKETS:
            return
        self._buckets.add(number, bucket.replicas, rows)
        for model, counts in bucket.ttfts.items():
            self._latencies.add(number, model, counts)

    def rates(self, replica: str, seconds: float) -> Rates:
        """The rates of one replica over the last 5 minutes or hour, or any time within it."""
        self._now()
        row = self._buckets.replica(replica, _num_buckets(seconds))
        return Rates.of(sum_of([row, *self.tallies.current(replica)]))

    def fleet_rates(self, seconds: float) -> Rates:
        """The rates of all replicas, also of those that have left."""
        self._now()
        rows = self._buckets.fleet(self._buckets.number, _num_buckets(seconds))
        return Rates.of(sum_of([rows.sum(axis=0).tolist(), *self.tallies.all_current().values()]))

    def per_second(self, seconds: float) -> tuple[float, float]:
        """Requests and prompt tokens per second. What this router counted is taken up to now, what others did
        up to the last bucket that is over for all."""
        now = self._now()
        number, length = self._buckets.number, _num_buckets(seconds)
        elapsed = (length - 1) * STEP_SECONDS + max(now - number * STEP_SECONDS, 1.0)
        completed = self._completed(now)
        current = sum_of([(0,) * NUM_COLUMNS, *self.tallies.all_current().values()])
        own = np.array([*self._own, (number, current[Column.REQUESTS], current[Column.PROMPT_TOKENS])])
        until_now = own[own[:, 0] > number - length, 1:].sum(axis=0)
        completed_own = own[(own[:, 0] > completed - length) & (own[:, 0] <= completed), 1:].sum(axis=0)
        completed_all = self._buckets.fleet(completed, length).sum(axis=0)
        others = completed_all[[Column.REQUESTS, Column.PROMPT_TOKENS]] - completed_own
        requests, tokens = until_now / elapsed + others / (length * STEP_SECONDS)
        return float(requests), float(tokens)

    def ttft(self, model: str | None) -> tuple[Latency, Latency]:
        """Times to the first token of one model or of all, over the last hour: warm, where at least half of
        the prompt was cached, and cold. Percentiles are within 5%."""
        self._now()
        counts = self._latencies.counts(ALL_MODELS if model is None else model)
        for name, own in self._ttfts.items():
            if model is None or name == model:
                counts += own
        return latencies_of(counts)

    def models(self) -> list[str]:
        """The models of which `ttft` knows times."""
        return sorted({*self._latencies.models(), *self._ttfts})

    def completed(self) -> CompletedBucket:
        """The last bucket that is over for all routers."""
        number = self._completed(self._now())
        fleet = self._buckets.fleet(number, 1)[0].tolist()
        return CompletedBucket(
            time=float(number * STEP_SECONDS),
            replicas={
                replica: [row[column] for column in SHOWN]
                for replica, row in self._buckets.bucket(number).items()
            },
            misses=dict(zip(REASON_NAMES, fleet[Column.FIRST_MISS :], strict=True)),
        )

    def timeline(self, seconds: float) -> Timeline:
        """The buckets that are over for all routers."""
        return Timeline(self._buckets, self._completed(self._now()), _num_buckets(seconds))

    def _now(self) -> float:
        now = self.asked_at = self._clock()
        self.advance(now)
        return now

    def _completed(self, now: float) -> int:
        number = self._buckets.number
        return number - (1 if now - number * STEP_SECONDS >= GRACE_SECONDS else 2)


class Timeline:
    """Some buckets that are over, the oldest first. Reads what is there when it is asked."""

    def __init__(self, buckets: Buckets, last: int, length: int) -> None:
        self._buckets = buckets
        self._last, self._length = last, length
        self.times = [float(number * STEP_SECONDS) for number in range(last - length + 1, last + 1)]
        """When each bucket began."""
        self.replicas = buckets.replicas(last, length)
        """The replicas with traffic."""

    def columns(self, replica: str) -> dict[str, list[int]]:
        """Requests and tokens of one replica, a number for each bucket."""
        rows = self._buckets.by_replica(replica, self._last, self._length)
        return {column.name.lower(): rows[:, column].tolist() for column in SHOWN}

    @property
    def misses(self) -> dict[str, list[int]]:
        """Tokens computed again in the whole fleet, by reason."""
        rows = self._buckets.fleet(self._last, self._length)
        return dict(zip(REASON_NAMES, rows.T[Column.FIRST_MISS :].tolist(), strict=True))


def _num_buckets(seconds: float) -> int:
    return min(max(math.ceil(seconds / STEP_SECONDS), 1), HOUR_BUCKETS)


_bucket_decoder = msgspec.msgpack.Decoder(FinishedBucket)
