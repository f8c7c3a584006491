"""Percentiles of times from counts in bins, each wider than the one before by the same factor.

So a percentile has a bounded relative error, and counts add up over routers. The method is DDSketch's
(Masson, Rim, Lee, VLDB 2019); its library adds a value in several microseconds, and does not take off again
what has become too old.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SECONDS_RANGE = (0.001, 2000.0)
"""What lies outside counts as the nearer end."""


class GeometricBins:
    """The bins for one relative error."""

    def __init__(self, error: float) -> None:
        self.error = error
        self.ratio = (1 + error) / (1 - error)
        """How many times as wide each bin is as the one before."""
        self._steps_per_e = 1 / math.log(self.ratio)
        self._first, last = (math.ceil(math.log(seconds) * self._steps_per_e) for seconds in SECONDS_RANGE)
        self.size = last - self._first + 1

    def place_of(self, seconds: float) -> int:
        """The bin in which a time counts."""
        shortest, longest = SECONDS_RANGE
        within = min(max(seconds, shortest), longest)
        return math.ceil(math.log(within) * self._steps_per_e) - self._first

    def percentiles(self, counts: NDArray[np.int64], percents: Sequence[float]) -> list[float] | None:
        """Seconds, each within the error of the exact percentile; None when nothing was counted."""
        below = np.cumsum(counts)
        if not below[-1]:
            return None
        ranks = [math.ceil(below[-1] * percent / 100) for percent in percents]
        return [self.middle(place) for place in np.searchsorted(below, ranks).tolist()]

    def middle(self, place: int) -> float:
        """The time that stands for a bin."""
        return 2 * self.ratio ** (place + self._first) / (self.ratio + 1)
