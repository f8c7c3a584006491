"""Times to the first token, warm and cold apart, of each model over the last hour.

Histograms with bins in geometric steps: they add up over routers, and a percentile is within 5% of the exact
one. The method is DDSketch's (Masson, Rim, Lee, VLDB 2019); its library adds a value in several microseconds,
and does not take off again what has become too old.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

ERROR = 0.05
"""Largest relative error of a percentile within the range."""
SECONDS_RANGE = (0.001, 2000.0)
"""What lies outside counts as the nearer end."""
MAX_MODELS = 64
"""Each takes at most 0.8 MB. What further models take counts only for all models together."""
ALL_MODELS = ""

_GAMMA = (1 + ERROR) / (1 - ERROR)
_STEPS_PER_E = 1 / math.log(_GAMMA)
_SHORTEST, _LONGEST = SECONDS_RANGE
_FIRST_BIN = math.ceil(math.log(_SHORTEST) * _STEPS_PER_E)
NUM_BINS = math.ceil(math.log(_LONGEST) * _STEPS_PER_E) - _FIRST_BIN + 1
NUM_COUNTS = 2 * NUM_BINS
"""Bins of warm requests, then those of cold ones."""

Histogram: TypeAlias = NDArray[np.int64]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in seconds, each within 5% of the exact one; None when nothing was counted."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


def place_of(seconds: float, *, warm: bool) -> int:
    """Where a time counts in a histogram."""
    within = min(max(seconds, _SHORTEST), _LONGEST)
    place = math.ceil(math.log(within) * _STEPS_PER_E) - _FIRST_BIN
    return place if warm else place + NUM_BINS


def latencies_of(counts: Histogram) -> tuple[Latency, Latency]:
    """Warm and cold."""
    return _latency(counts[:NUM_BINS]), _latency(counts[NUM_BINS:])


def _latency(counts: Histogram) -> Latency:
    below = np.cumsum(counts)
    count = int(below[-1])
    if not count:
        return Latency(count=0, p50=None, p95=None, p99=None)
    ranks = [math.ceil(count * percent / 100) for percent in (50, 95, 99)]
    bins = np.searchsorted(below, ranks) + _FIRST_BIN
    p50, p95, p99 = (2 * _GAMMA**bins / (_GAMMA + 1)).tolist()
    return Latency(count=count, p50=p50, p95=p95, p99=p99)


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
        """Of one model, or of all; a copy."""
        return np.array(self._sums.get(model, np.zeros(NUM_COUNTS)), dtype=np.int64)

    def models(self) -> Iterator[str]:
        """Those with traffic, ordered."""
        yield from sorted(model for model in self._sums if model != ALL_MODELS)
