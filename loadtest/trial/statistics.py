"""How far a difference can be trusted, when the requests of one conversation resemble each other.

Method: the cluster bootstrap (Field and Welsh, Journal of the Royal Statistical Society B 69(3), 2007). Whole
conversations are drawn with replacement, each with all its requests in both arms, since both arms hold the
same conversations. A figure is computed anew from each draw; the middle 95% of the results are the interval.
Intervals from single requests would be far too narrow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 1_000
CONFIDENCE = 0.95
POWER = 0.8
"""How often a difference that exists is to be found."""
CHUNK = 4_000_000
"""Numbers held at once while quantiles are drawn."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, and where the true value lies in 95% of cases."""

    estimate: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value is compatible with what was measured."""
        return self.low <= value <= self.high

    def scaled(self, factor: float) -> "Interval":
        """The interval in another unit; by a negative factor the other way round."""
        low, high = self.low * factor, self.high * factor
        return Interval(self.estimate * factor, *((low, high) if factor > 0 else (high, low)))

    def reciprocal(self) -> "Interval":
        """The interval of a ratio the other way round."""
        return Interval(1 / self.estimate, 1 / self.high, 1 / self.low)


def interval_of(estimate: float, draws: Floats) -> Interval:
    """The percentile interval. NaN where there is nothing."""
    if not draws.size or not np.isfinite(draws).all():
        return Interval(estimate, math.nan, math.nan)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(estimate, float(low), float(high))


def draw_counts(clusters: int, seed: int = 1, draws: int = DRAWS) -> NDArray[np.int64]:
    """How often each cluster is in each draw. The first axis are the draws."""
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)


@dataclass(frozen=True, slots=True)
class Sample:
    """One number per request, and the conversation of each, from 0."""

    values: Floats
    clusters: NDArray[np.int64]

    def quantile(self, share: float) -> float:
        """The smallest value that at least this share of the requests do not exceed. There must be one."""
        return float(np.quantile(self.values, share, method="inverted_cdf"))

    def quantile_draws(self, share: float, counts: NDArray[np.int64]) -> Floats:
        """The quantile of every draw; NaN where a draw holds no request."""
        order = np.argsort(self.values, kind="stable")
        ordered, clusters = self.values[order], self.clusters[order]
        results = np.full(len(counts), math.nan)
        if not ordered.size:
            return results
        step = max(CHUNK // ordered.size, 1)
        for start in range(0, len(counts), step):
            below = np.cumsum(counts[start : start + step, clusters], axis=1)
            total = below[:, -1]
            place = (below < np.ceil(share * total - 1e-9)[:, None]).sum(axis=1)
            found = ordered[np.minimum(place, ordered.size - 1)]
            results[start : start + step] = np.where(total > 0, found, math.nan)
        return results

    def sums(self, clusters: int) -> Floats:
        """The sum of each conversation."""
        return np.bincount(self.clusters, weights=self.values, minlength=clusters).astype(np.float64)


def ratio_draws(over: Floats, under: Floats, counts: NDArray[np.int64]) -> Floats:
    """A ratio of two sums over conversations, for every draw; NaN where the lower sum is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        results = (counts @ over) / (counts @ under)
    return np.where(np.isfinite(results), results, math.nan)


def clusters_needed(difference: float, standard_error: float, clusters: int) -> int | None:
    """Conversations with which a difference as large as the one seen would be found in 80% of cases.

    None when there is no difference, or too large a number to name.
    """
    if not difference or not math.isfinite(standard_error) or not math.isfinite(difference):
        return None
    normal = NormalDist()
    distance = normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(POWER)
    needed = clusters * (distance * standard_error / difference) ** 2
    return max(math.ceil(needed), 1) if needed < 1e7 else None


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through measurements: by how much the one rises with the other."""

    estimate: float
    standard_error: float

    def interval(self) -> Interval:
        """Normal, at 95%."""
        margin = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * self.standard_error
        return Interval(self.estimate, self.estimate - margin, self.estimate + margin)


def shared_clusters(*of_arms: Sequence[str]) -> Mapping[str, int]:
    """Conversations that every arm has held, numbered from 0."""
    shared = set(of_arms[0]).intersection(*of_arms[1:])
    return {name: number for number, name in enumerate(sorted(shared))}
