"""How many prompts part ways at the same place: how hot that is which they share.

A conversation continues where its last turn ended, once. An opening, a document or a tool's description is
continued in many ways, each time after the same block.
"""

import math
from collections import OrderedDict

HORIZON = 1_000.0
"""Prompts after which one counts for 1/e."""
FIRST = 2.0
"""So many prompts that part ways elsewhere are taken to have come before the first."""
MAX_BRANCHES = 100_000
"""Blocks that are remembered: those after which prompts have gone on last."""


class Branches:
    """The blocks after which prompts went on with something new."""

    def __init__(self) -> None:
        self._num_returns = 0
        self._counts: OrderedDict[int, tuple[float, int]] = OrderedDict()

    def share(self, key: int) -> float:
        """Of the recent prompts that parted ways with another one, the share that did so after this block."""
        return self._count(key) / (min(self._num_returns, HORIZON) + FIRST)

    def add(self, key: int) -> None:
        """A prompt goes on with something new after this block."""
        if key in self._counts:
            self._num_returns += 1
        self._counts[key] = self._count(key) + 1, self._num_returns
        self._counts.move_to_end(key)
        if len(self._counts) > MAX_BRANCHES:
            self._counts.popitem(last=False)

    def _count(self, key: int) -> float:
        count, number = self._counts.get(key, (0.0, 0))
        return count * math.exp((number - self._num_returns) / HORIZON)
