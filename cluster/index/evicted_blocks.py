"""Blocks that replicas held until a while ago, and how they lost them: so that a miss can be explained."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cluster.index.block_table import BlockKeys

MAX_BLOCKS = 1 << 22
"""9 bytes each, taken as they are first used."""


class Fate(IntEnum):
    """What became of a block."""

    NEVER_SEEN = 0
    """Or forgotten since."""
    EVICTED = 1
    """Its engine gave it up for others."""
    LOST = 2
    """Its replica went, or started anew."""


class Ghosts:
    """Remembers keys, each at the place that it names itself: a newer one takes the place of an older one."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        """Room for ``max_blocks``, a power of two."""
        self.max_blocks = max_blocks
        self._mask = max_blocks - 1
        self._keys: BlockKeys = np.zeros(max_blocks, dtype=np.uint64)
        self._fates: NDArray[np.uint8] = np.zeros(max_blocks, dtype=np.uint8)

    def __len__(self) -> int:
        """Blocks remembered. Goes through the whole table: milliseconds."""
        return int(np.count_nonzero(self._fates))

    def remember(self, keys: BlockKeys, fate: Fate) -> None:
        """A replica no longer holds these blocks. Others may: only ask for blocks that nobody holds."""
        places = keys & self._mask
        self._keys[places] = keys
        self._fates[places] = fate

    def fate(self, key: int) -> Fate:
        """What became of one block."""
        place = key & self._mask
        return Fate(int(self._fates[place])) if int(self._keys[place]) == key else Fate.NEVER_SEEN

    def leading(self, keys: BlockKeys) -> list[tuple[Fate, int]]:
        """The fates of the leading blocks that are remembered, each with how many have it in a row."""
        if not len(keys) or self.fate(int(keys[0])) is Fate.NEVER_SEEN:
            return []
        places = keys & self._mask
        fates = self._fates[places] * (self._keys[places] == keys)
        known = fates != Fate.NEVER_SEEN
        # Keys are chained: a block in front of a remembered one was there too, and is overwritten here.
        ends = np.flatnonzero(known) + 1
        runs: list[tuple[Fate, int]] = []
        start = 0
        for end in ends.tolist():
            fate, count = Fate(int(fates[end - 1])), end - start
            if runs and runs[-1][0] is fate:
                count += runs.pop()[1]
            runs.append((fate, count))
            start = end
        return runs
