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
from router.history.latencies import ALL_MODELS, BINS, NUM_COUNTS, LatencyWindow, WarmCold
from router.history.record import RequestRecord
from router.history.savings import Savings
from router.history.tallies import NUM_COLUMNS, Column, Rates, Row, Tallies, add_row, count_request, sum_of
from router.history.trends import Trends

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
    trends: bytes = b""
    """What `Trends` finished."""


class History:
    """What became of requests, over time."""

    def __init__(self, savings: Savings, clock: Callable[[], float] = time.time) -> None:
        self._savings = savings
        self._clock = clock
        number = int(clock() // STEP_SECONDS)
        self._ends = (number + 1.0) * STEP_SECONDS
        self.tallies = Tallies()
        self.trends = Trends()
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
        """Count a finished request; ``ttft`` of a stream. Those that never came to a replica are part of the
        trends only."""
        if now >= self._ends:
            self.advance(now)
        place = BINS.place_of(ttft) if ttft is not None and record.outcome == "ok" else None
        count_request(self.trends.current, record, place)
        if not record.replica:
            return
        self.tallies.add(record)
        usage = record.usage
        if place is not None and usage is not None and (cached := usage.cached_tokens) is not None:
            counts = self._ttfts.get(record.model)
            if counts is None:
                counts = self._ttfts[record.model] = [0] * NUM_COUNTS
            counts[place if 2 * cached >= usage.prompt_tokens else place + BINS.size] += 1

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
        number, rows, trends = self._buckets.number, self.tallies.finish(), self.trends.finish()
        if not trends:
            return
        by_replica: dict[str, Row] = {}
        for (replica, model, *_), row in rows.items():
            self._savings.add(number * STEP_SECONDS, replica, model, row)
            add_row(by_replica, replica, row)
        bucket = FinishedBucket(number, list(by_replica), list(by_replica.values()), self._ttfts, trends)
        self._ttfts = {}
        self.finished.append(msgspec.msgpack.encode(bucket))
        total = sum_of([(0,) * NUM_COLUMNS, *bucket.rows])
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
        rows = np.array(bucket.rows, np.int64).reshape(-1, NUM_COLUMNS)
        if rows.shape != (len(bucket.replicas), NUM_COLUMNS):
            raise ValueError("other columns")
        if any(len(counts) != NUM_COUNTS for counts in bucket.ttfts.values()):
            raise ValueError("other bins")
        number = min(bucket.number, self._buckets.number)  # another router's clock may be ahead
        if number <= self._buckets.number - HOUR_BUCKETS:
            return
        self.trends.count(number, bucket.trends)
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

    def ttft(self, model: str | None) -> WarmCold:
        """Times to the first token of one model or of all, over the last hour."""
        self._now()
        counts = self._latencies.counts(ALL_MODELS if model is None else model)
        for name, own in self._ttfts.items():
            if model is None or name == model:
                counts += own
        return WarmCold.of(counts)

    def models(self) -> list[str]:
        """The models of which `ttft` knows times."""
        return sorted({*self._latencies.models(), *self._ttfts})

    def _now(self) -> float:
        now = self.asked_at = self._clock()
        self.advance(now)
        return now

    def completed(self) -> int:
        """The number of the last bucket that is over for all routers."""
        return self._completed(self._now())

    def _completed(self, now: float) -> int:
        number = self._buckets.number
        return number - (1 if now - number * STEP_SECONDS >= GRACE_SECONDS else 2)


def _num_buckets(seconds: float) -> int:
    return min(max(math.ceil(seconds / STEP_SECONDS), 1), HOUR_BUCKETS)


_bucket_decoder = msgspec.msgpack.Decoder(FinishedBucket)
