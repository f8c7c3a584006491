"""Times to the first token of streamed answers, warm and cold apart, of each model over the last hour.

They are counted in bins, which add up over routers.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from router.steer.geometric_bins import GeometricBins

BINS = GeometricBins(error=0.01)
MAX_MODELS = 64
"""So many models are kept by name, each in at most 4 MB. What further models take
counts only for all models together."""
ALL_MODELS = ""

NUM_COUNTS = 2 * BINS.size
"""Bins of warm requests, then those of cold ones."""

ENOUGH = 20
"""Fewer times of either kind are not compared."""
NORMAL = 2.24
"""Of a normal distribution 97.5% lie within so many standard deviations: two such intervals hold together in
95%."""

Histogram: TypeAlias = NDArray[np.int64]
Bins: TypeAlias = NDArray[np.integer]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in seconds, each within 1% of the exact one; None when nothing was counted."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


class Speedup(msgspec.Struct, frozen=True):
    """How many times as long the median cold request waits as the warm one, with its 95% interval."""

    ratio: float
    low: float
    high: float


class WarmCold(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds to the first token of streamed answers: of prompts of which at least half was cached, and of
    the others."""

    warm: Latency
    cold: Latency
    speedup: Speedup | None
    """None where there are not `ENOUGH` of both."""
    enough: int = ENOUGH

    @classmethod
    def of(cls, counts: Histogram) -> "WarmCold":
        """What a histogram amounts to."""
        warm, cold = counts[: BINS.size], counts[BINS.size :]
        speedup = None
        if (of_warm := _median(warm)) and (of_cold := _median(cold)):
            low, high = of_cold[0] / of_warm[2], of_cold[2] / of_warm[0]
            # The ends of an interval are only as exact as the bins.
            margin = 1 + 2 * BINS.error
            speedup = Speedup(of_cold[1] / of_warm[1], low / margin, high * margin)
        return cls(warm=_latency(warm), cold=_latency(cold), speedup=speedup)


def _median(counts: Histogram) -> list[float] | None:
    """The median between the ends of its interval, by order statistics; None where there are not enough."""
    if (number := int(counts.sum())) < ENOUGH:
        return None
    half = 50 * NORMAL / math.sqrt(number)
    return BINS.percentiles(counts, (50 - half, 50, min(50 + half + 100 / number, 100)))


def _latency(counts: Histogram) -> Latency:
    p50, p95, p99 = BINS.percentiles(counts, (50, 95, 99)) or (None, None, None)
    return Latency(count=int(counts.sum()), p50=p50, p95=p95, p99=p99)


class LatencyWindow:
    """Histograms of each model in each of the last buckets of time, and their running sums."""

    def __init__(self, num_buckets: int) -> None:
        self._num_buckets = num_buckets
        self._buckets: dict[int, list[tuple[str, Bins, Bins]]] = {}
        """What was counted of each model: numbers of bins, and what is in them."""
        self._sums: dict[str, Histogram] = {}

    def add(self, number: int, model: str, counts: Sequence[int]) -> None:
        """Count a histogram into a bucket."""
        added = np.array(counts, dtype=np.int32)
        bins = np.flatnonzero(added)
        known = model in self._sums or len(self._sums) < MAX_MODELS + 1
        bucket = self._buckets.setdefault(number, [])
        for name in (ALL_MODELS, model) if known else (ALL_MODELS,):
            bucket.append((name, bins, added[bins]))
            self._sums[name] = self._sums.get(name, 0) + added.astype(np.int64)

    def advance(self, number: int) -> None:
        """Forget what is too old when this bucket begins, and models without traffic since."""
        for old in [bucket for bucket in self._buckets if bucket <= number - self._num_buckets]:
            for model, bins, counts in self._buckets.pop(old):
                self._sums[model][bins] -= counts
                if not self._sums[model].any():
                    del self._sums[model]

    def counts(self, model: str) -> Histogram:
        """A copy of the histogram of one model, or of all."""
        return np.array(self._sums.get(model, np.zeros(NUM_COUNTS)), dtype=np.int64)

    def models(self) -> Iterator[str]:
        """The models with traffic, ordered."""
        yield from sorted(model for model in self._sums if model != ALL_MODELS)
