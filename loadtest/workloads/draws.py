"""What is left to chance in a workload: lengths, popularity and arrivals."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from loadtest.workloads.text import Part

BLOCK_SIZE = 16
"""Tokens per block in all generated workloads, as in vLLM on a GPU."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Whole numbers, usually of tokens: lognormal, moved to the nearest limit where they fall outside."""

    median: float
    sigma: float
    """Standard deviation of the logarithm."""
    low: int
    high: int

    def draw(self, source: Random) -> int:
        """One number."""
        length = round(source.lognormvariate(math.log(self.median), self.sigma))
        return min(max(length, self.low), self.high)


def new_part(lengths: Lengths, source: Random) -> Part:
    """A piece of text that exists nowhere else."""
    return Part(source.getrandbits(64), lengths.draw(source))


def zipf_weights(count: int, exponent: float) -> list[float]:
    """Cumulative weights, for `Random.choices`, of things of which the n-th is wanted ``1 / n**exponent`` as
    often as the first.
    """
    return list(accumulate(1 / rank**exponent for rank in range(1, count + 1)))


def poisson_starts(per_second: float, begin: float, end: float, source: Random) -> Iterator[float]:
    """Independent arrivals from ``begin`` to ``end``, in seconds."""
    now = begin + source.expovariate(per_second)
    while now < end:
        yield now
        now += source.expovariate(per_second)
