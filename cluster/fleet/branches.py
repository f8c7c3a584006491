"""How many prompts part ways at the same place: how popular that is which they share.

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
RECENT = 64.0
"""Prompts after which one counts for 1/e in a second count, which soon knows of an opening that is new to a
busy router."""
DOUBT = 2.0
"""Standard deviations by which the second count may be too high by chance, being of few prompts."""
FIRST = 2.0
"""So many prompts that part ways elsewhere are taken to have come before the first."""
MAX_BRANCHES = 100_000
"""Blocks that are remembered: those after which prompts have gone on last."""


NUM_RECENT = 5_000
"""Blocks among which the most popular are looked for: those met last."""


class Branch(NamedTuple):
    """A block after which prompts go on with something new."""

    key: int
    tokens: int
    """Tokens of a prompt up to the end of this block."""
    prompts: float
    """How many prompts parted ways here; those long ago count less."""
    share: float
    """Part of the recent prompts that parted ways with another one which did so here."""


class Counts(NamedTuple):
    """Prompts that parted ways after one block."""

    prompts: float = 0.0
    """How many there were; one counts for 1/e after `HORIZON` others."""
    recent: float = 0.0
    """How many of them there were lately; one counts for 1/e after `RECENT` others."""
    number: int = 0
    """How many prompts had parted ways with another one anywhere when this was counted."""
    tokens: int = 0


NEVER = Counts()


class Branches:
    """The blocks after which prompts went on with something new."""

    def __init__(self) -> None:
        self._num_returns = 0
        self._counts: OrderedDict[int, Counts] = OrderedDict()

    def share(self, key: int) -> float:
        """Of the recent prompts that parted ways with another one, the share that did so after this block."""
        counts = self._counts.get(key, NEVER)
        age = counts.number - self._num_returns
        prompts, recent = counts.prompts * math.exp(age / HORIZON), counts.recent * math.exp(age / RECENT)
        return max(
            prompts / (min(self._num_returns, HORIZON) + FIRST),
            (recent - DOUBT * math.sqrt(recent)) / (min(self._num_returns, RECENT) + FIRST),
        )

    def most_popular(self, limit: int) -> list[Branch]:
        """The blocks after which most prompts part ways, of those met lately."""
        lately = islice(reversed(self._counts), NUM_RECENT)
        popular = nlargest(limit, ((self._prompts(key), key) for key in lately))
        return [Branch(key, self._counts[key].tokens, prompts, self.share(key)) for prompts, key in popular]

    def add(self, key: int, tokens: int = 0) -> None:
        """A prompt goes on with something new after this block, with which so many of its tokens end."""
        if key in self._counts:
            self._num_returns += 1
        counts = self._counts.get(key, NEVER)
        age = counts.number - self._num_returns
        self._counts[key] = Counts(
            counts.prompts * math.exp(age / HORIZON) + 1,
            counts.recent * math.exp(age / RECENT) + 1,
            self._num_returns,
            tokens,
        )
        self._counts.move_to_end(key)
        if len(self._counts) > MAX_BRANCHES:
            self._counts.popitem(last=False)

    def _prompts(self, key: int) -> float:
        counts = self._counts[key]
        return counts.prompts * math.exp((counts.number - self._num_returns) / HORIZON)
