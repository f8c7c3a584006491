"""Blocks that replicas held until a while ago, and how they lost them: so that a miss can be explained."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cluster.index.block_table import BlockKeys

MAX_BLOCKS = 1 << 22
"""9 bytes each, taken as they are first used."""


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
        self._outcomes: NDArray[np.uint8] = np.zeros(max_blocks, dtype=np.uint8)

    def __len__(self) -> int:
        """Blocks remembered. Goes through the whole table: milliseconds."""
        return int(np.count_nonzero(self._outcomes))

    def remember(self, keys: BlockKeys, outcome: Outcome) -> None:
        """A replica no longer holds these blocks. Others may: only ask for blocks that nobody holds."""
        places = keys & self._mask
        self._keys[places] = keys
        self._outcomes[places] = outcome

    def outcome(self, key: int) -> Outcome:
        """What became of one block."""
        place = key & self._mask
        return Outcome(int(self._outcomes[place])) if int(self._keys[place]) == key else Outcome.NEVER_SEEN

    def leading(self, keys: BlockKeys) -> list[tuple[Outcome, int]]:
        """The outcomes of the leading blocks that are remembered, each with how many have it in a row."""
        if not len(keys) or self.outcome(int(keys[0])) is Outcome.NEVER_SEEN:
            return []
        places = keys & self._mask
        outcomes = self._outcomes[places] * (self._keys[places] == keys)
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
