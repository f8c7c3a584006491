"""How many prompts part ways at the same place: how hot that is which they share.

A conversation continues where its last turn ended, once. An opening, a document or a tool's description is
continued in many ways, each time after the same block.
"""

import math
from collections import OrderedDict
from heapq import nlargest
from itertools import islice
from typing import NamedTuple

HORIZON = 1_000.0
"""Prompts after which one counts for 1/e."""
FIRST = 2.0
"""So many prompts that part ways elsewhere are taken to have come before the first."""
MAX_BRANCHES = 100_000
"""Blocks that are remembered: those after which prompts have gone on last."""


MET_LATELY = 5_000
"""Blocks among which the hottest are looked for: what was not met for longer has cooled down."""
NEVER = (0.0, 0, 0)


class Branch(NamedTuple):
    """A block after which prompts go on with something new."""

    key: int
    tokens: int
    """Of a prompt, up to the end of this block."""
    prompts: float
    """That parted ways here, those long ago counting less."""
    share: float
    """Of the recent prompts that parted ways with another one."""


class Branches:
    """The blocks after which prompts went on with something new."""

    def __init__(self) -> None:
        self._num_returns = 0
        self._counts: OrderedDict[int, tuple[float, int, int]] = OrderedDict()

    def share(self, key: int) -> float:
        """Of the recent prompts that parted ways with another one, the share that did so after this block."""
        return self._count(key) / (min(self._num_returns, HORIZON) + FIRST)

    def hottest(self, limit: int) -> list[Branch]:
        """The blocks after which most prompts part ways, of those met lately."""
        lately = islice(reversed(self._counts), MET_LATELY)
        hottest = nlargest(limit, ((self._count(key), key) for key in lately))
        return [Branch(key, self._counts[key][2], count, self.share(key)) for count, key in hottest]

    def add(self, key: int, tokens: int = 0) -> None:
        """A prompt goes on with something new after this block, with which so many of its tokens end."""
        if key in self._counts:
            self._num_returns += 1
        self._counts[key] = self._count(key) + 1, self._num_returns, tokens
        self._counts.move_to_end(key)
        if len(self._counts) > MAX_BRANCHES:
            self._counts.popitem(last=False)

    def _count(self, key: int) -> float:
        count, number, _ = self._counts.get(key, NEVER)
        return count * math.exp((number - self._num_returns) / HORIZON)
