"""Times to the first token, warm and cold apart, of each model over the last hour.

They are counted in bins, which add up over routers.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from router.steer.geometric_bins import GeometricBins

BINS = GeometricBins(error=0.05)
MAX_MODELS = 64
"""So many models are kept by name, each in at most 0.8 MB. What further models take
counts only for all models together."""
ALL_MODELS = ""

NUM_COUNTS = 2 * BINS.size
"""Bins of warm requests, then those of cold ones."""

Histogram: TypeAlias = NDArray[np.int64]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in seconds, each within 5% of the exact one; None when nothing was counted."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


def place_of(seconds: float, *, warm: bool) -> int:
    """The bin of a histogram in which a time counts."""
    place = BINS.place_of(seconds)
    return place if warm else place + BINS.size


def latencies_of(counts: Histogram) -> tuple[Latency, Latency]:
    """The latencies of warm and of cold requests."""
    return _latency(counts[: BINS.size]), _latency(counts[BINS.size :])


def _latency(counts: Histogram) -> Latency:
    p50, p95, p99 = BINS.percentiles(counts, (50, 95, 99)) or (None, None, None)
    return Latency(count=int(counts.sum()), p50=p50, p95=p95, p99=p99)


class LatencyWindow:
    """Histograms of each model in each of the last buckets of time, and their running sums."""

    def __init__(self, num_buckets: int) -> None:
        self._num_buckets = num_buckets
        self._buckets: dict[int, dict[str, NDArray[np.int32]]] = {}
        self._sums: dict[str, Histogram] = {}

    def add(self, number: int, model: str, counts: Sequence[int]) -> None:
        """Count a histogram into a bucket."""
        added = np.array(counts, dtype=np.int32)
        known = model in self._sums or len(self._sums) < MAX_MODELS + 1
        bucket = self._buckets.setdefault(number, {})
        for name in (ALL_MODELS, model) if known else (ALL_MODELS,):
            if name in bucket:
                bucket[name] += added
            else:
                bucket[name] = added.copy()
            self._sums[name] = self._sums.get(name, 0) + added.astype(np.int64)

    def advance(self, number: int) -> None:
        """Forget what is too old when this bucket begins, and models without traffic since."""
        for old in [bucket for bucket in self._buckets if bucket <= number - self._num_buckets]:
            for model, counts in self._buckets.pop(old).items():
                self._sums[model] -= counts
                if not self._sums[model].any():
                    del self._sums[model]

    def counts(self, model: str) -> Histogram:
        """A copy of the histogram of one model, or of all."""
        return np.array(self._sums.get(model, np.zeros(NUM_COUNTS)), dtype=np.int64)

    def models(self) -> Iterator[str]:
        """The models with traffic, ordered."""
        yield from sorted(model for model in self._sums if model != ALL_MODELS)
