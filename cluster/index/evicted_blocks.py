"""Blocks that replicas held until a while ago, and how they lost them: so that a miss can be explained."""

import time
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cluster.index.block_table import BlockKeys

MAX_BLOCKS = 1 << 22
"""10 bytes each, taken as they are first used."""
TICK_SECONDS = 4
"""Times are kept in so many seconds, and repeat after 18 hours."""
SOON_TICKS = 15
"""What is wanted again within a minute was evicted too early."""
OUTCOME_BITS = 2


class Outcome(IntEnum):
    """What became of a block."""

    NEVER_SEEN = 0
    """The block was never held, or that is forgotten."""
    EVICTED = 1
    """The engine gave the block up for others."""
    LOST = 2
    """The replica that held the block went, or started anew."""


class EvictedBlocks:
    """Remembers keys, each at the place that it names itself: a newer one takes the place of an older one."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        """Room for ``max_blocks``, a power of two."""
        self.max_blocks = max_blocks
        self._mask = max_blocks - 1
        self._keys: BlockKeys = np.zeros(max_blocks, dtype=np.uint64)
        self._marks: NDArray[np.uint16] = np.zeros(max_blocks, dtype=np.uint16)
        """Outcome, and when that was."""
        self.num_wanted_again = 0
        """Blocks that a prompt wanted within a minute after they had been evicted: many mean thrashing."""

    def __len__(self) -> int:
        """Blocks remembered. Goes through the whole table: milliseconds."""
        return int(np.count_nonzero(self._marks))

    def remember(self, keys: BlockKeys, outcome: Outcome) -> None:
        """A replica no longer holds these blocks. Others may: only ask for blocks that nobody holds."""
        places = keys & self._mask
        self._keys[places] = keys
        self._marks[places] = _tick() << OUTCOME_BITS | outcome

    def outcome(self, key: int) -> Outcome:
        """What became of one block."""
        place = key & self._mask
        known = int(self._keys[place]) == key
        return Outcome(int(self._marks[place]) % (1 << OUTCOME_BITS)) if known else Outcome.NEVER_SEEN

    def want(self, keys: BlockKeys) -> None:
        """A prompt is sent whose blocks these are, and nobody holds them."""
        places = keys & self._mask
        marks = self._marks[places]
        age = (_tick() - (marks >> OUTCOME_BITS).astype(np.int64)) % (1 << 16 - OUTCOME_BITS)
        evicted = (self._keys[places] == keys) & (marks % (1 << OUTCOME_BITS) == Outcome.EVICTED)
        self.num_wanted_again += int(np.count_nonzero(evicted & (age <= SOON_TICKS)))

    def leading(self, keys: BlockKeys) -> list[tuple[Outcome, int]]:
        """The outcomes of the leading blocks that are remembered, each with how many have it in a row."""
        if not len(keys) or self.outcome(int(keys[0])) is Outcome.NEVER_SEEN:
            return []
        places = keys & self._mask
        outcomes = self._marks[places] % (1 << OUTCOME_BITS) * (self._keys[places] == keys)
        known = outcomes != Outcome.NEVER_SEEN
        # Keys are chained: a block in front of a remembered one was there too, and is overwritten here.
        ends = np.flatnonzero(known) + 1
        runs: list[tuple[Outcome, int]] = []
        start = 0
        for end in ends.tolist():
            outcome, count = Outcome(int(outcomes[end - 1])), end - start
            if runs and runs[-1][0] is outcome:
                count += runs.pop()[1]
            runs.append((outcome, count))
            start = end
        return runs


def _tick() -> int:
    return int(time.monotonic()) // TICK_SECONDS % (1 << 16 - OUTCOME_BITS)
