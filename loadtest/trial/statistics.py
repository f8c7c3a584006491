"""How far a difference can be trusted, when a whole round can be slow or fast.

A round is the unit: both arms hold the same conversations in it, one after the other, and the figures of each
round give one comparison. The interval is Student's over these comparisons, so it holds whatever makes them
differ: which conversations a round has, and how much else the machine had to do meanwhile. Intervals from the
conversations of all rounds together, or from single requests, leave the machine out and are too narrow.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
POWER = 0.95
"""How often a difference that exists is to be found by as many rounds as are asked for. Their number follows
from a spread that is itself estimated, often as too small: what is left are 90%."""
MOST_ROUNDS = 1000
ANGLES = np.linspace(-math.pi / 2, math.pi / 2, 20_001)


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

    def exponential(self) -> "Interval":
        """The interval of a ratio, from that of its logarithm."""
        return Interval(*(math.exp(value) for value in (self.estimate, self.low, self.high)))

    def times(self, other: "Interval") -> "Interval":
        """The interval of a product, when both are measured independently."""
        estimate = self.estimate * other.estimate
        margins = [
            math.hypot(one * other.estimate, two * self.estimate)
            for one, two in (
                (self.estimate - self.low, other.estimate - other.low),
                (self.high - self.estimate, other.high - other.estimate),
            )
        ]
        return Interval(estimate, estimate - margins[0], estimate + margins[1])


@lru_cache(4096)
def student_quantile(share: float, freedom: int) -> float:
    """The quantile of Student's distribution: with t = sqrt(freedom) * tan(angle), the angle has a density
    proportional to cos(angle) ** (freedom - 1)."""
    density = np.cos(ANGLES) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(share * below[-1], below, ANGLES)))


def interval_over(values: Sequence[float] | Floats, figures: int = 1) -> Interval:
    """Student's interval of a mean. ``figures`` intervals hold together in 95% of cases (Bonferroni).

    NaN where there are fewer than two values, or one that is no number.
    """
    numbers = np.asarray(values, dtype=float)
    estimate = float(numbers.mean()) if numbers.size else math.nan
    if numbers.size < 2 or not np.isfinite(numbers).all():
        return Interval(estimate, math.nan, math.nan)
    error = float(numbers.std(ddof=1)) / math.sqrt(numbers.size)
    margin = error * student_quantile(1 - _tail(figures), numbers.size - 1)
    return Interval(estimate, estimate - margin, estimate + margin)


def rounds_needed(spread: float, difference: float, figures: int = 1) -> int | None:
    """Rounds with which a difference as large is found nearly always. None where they are too many to name.

    ``spread`` is the standard deviation from round to round. It does not depend on the difference that was
    seen: whoever adds rounds until one is found will find one.
    """

    def found(rounds: int) -> bool:
        tail, missed = (student_quantile(share, rounds - 1) for share in (1 - _tail(figures), POWER))
        return (tail + missed) * spread <= difference * math.sqrt(rounds)

    if not found(MOST_ROUNDS):
        return None
    return 2 + bisect_left(range(2, MOST_ROUNDS), True, key=found)


def _tail(figures: int) -> float:
    return (1 - CONFIDENCE) / 2 / figures


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through measurements: by how much the one rises with the other."""

    estimate: float
    standard_error: float

    def interval(self) -> Interval:
        """Normal, at 95%."""
        margin = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * self.standard_error
        return Interval(self.estimate, self.estimate - margin, self.estimate + margin)
