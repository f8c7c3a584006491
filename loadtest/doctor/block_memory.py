"""One cache without limits: which blocks the traffic has met, how long ago, and how often."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.index.block_table import BlockKeys
from loadtest.doctor import block_kernels as kernels

MIN_PLACES = 1 << 14
MAX_PLACES = 1 << 23
"""The most places of the hash table, which take 13 bytes each."""
FILL = 0.75
DISTANCES = 8 * 40
"""Steps of the scale of distances: 8 for each power of two."""
MAX_TIMES = 1 << 22
"""Requests that can be told apart in time; of more, neighbours count as one."""
MIN_TIMES = 1 << 10
MAX_VARIANT_PLACES = 1 << 22
"""16 bytes each."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """Blocks that were met again, by distance (see `distance_of`) and by how often they had been touched."""

    histogram: NDArray[np.int64]

    @staticmethod
    def distance_of(place: int) -> int:
        """Upper end of a step of the scale, in blocks."""
        return int(np.ceil(2 ** ((place + 1) / 8)))


class BlockMemory:
    """Blocks with the time of their last use. At its bound the half not used for longest is forgotten."""

    def __init__(self, max_places: int = MAX_PLACES) -> None:
        self.num_blocks = 0
        self.distinct = 0
        """Blocks that were new; forgotten ones count again."""
        self.forgotten = 0
        self.reuse = Reuse(np.zeros((DISTANCES, kernels.MAX_TOUCHES + 1), dtype=np.int64))
        self._max_places = max_places
        self._now = 0
        self._tree = np.zeros(MIN_TIMES, dtype=np.int64)
        self._keys, self._last, self._touches = _empty(MIN_PLACES)

    def touch(self, keys: BlockKeys, num_tokens: int, block_size: int) -> int:
        """Look up the blocks of one prompt and store them. Returns how many leading ones could be reused."""
        self._make_room(len(keys))
        self._now += 1
        # Engines compute at least a prompt's last token.
        limit = max(num_tokens - 1, 0) // block_size
        hits, new = kernels.touch(
            keys, self._now, limit, self._keys, self._last, self._touches, self._tree, self.num_blocks,
            self.reuse.histogram,
        )  # fmt: skip
        self.num_blocks += new
        self.distinct += new
        return int(hits)

    def _make_room(self, more: int) -> None:
        if self._now + 1 >= len(self._tree):
            if len(self._tree) >= MAX_TIMES:
                self._last = (self._last + 1) // 2
                self._now = (self._now + 1) // 2
                self._rebuild_tree(len(self._tree))
            else:
                self._rebuild_tree(2 * len(self._tree))
        if self.num_blocks + more <= FILL * len(self._keys):
            return
        places = len(self._keys)
        while self.num_blocks + more > FILL * places and places < self._max_places:
            places *= 2
        if places == len(self._keys):
            self._forget_half()
        self._refill(places)
        while self.num_blocks + more > FILL * len(self._keys):  # a single prompt that is larger than all
            self._refill(2 * len(self._keys))

    def _forget_half(self) -> None:
        used = self._keys != 0
        middle = np.median(self._last[used])
        old = used & (self._last <= middle)
        self._keys[old] = 0
        self.forgotten += int(old.sum())
        self.num_blocks -= int(old.sum())

    def _refill(self, places: int) -> None:
        keys, last, touches = _empty(places)
        kernels.refill(self._keys, self._last, self._touches, keys, last, touches)
        self._keys, self._last, self._touches = keys, last, touches
        self._rebuild_tree(len(self._tree))

    def _rebuild_tree(self, size: int) -> None:
        counts = np.bincount(self._last[self._keys != 0], minlength=size)[:size].astype(np.int64)
        sums = np.concatenate(([0], np.cumsum(counts[1:])))
        numbers = np.arange(size)
        tree: NDArray[np.int64] = sums - sums[numbers - (numbers & -numbers)]
        tree[0] = 0
        self._tree = tree


class VariantMemory:
    """Caches without limits, one for each variant of the traffic, in one table."""

    def __init__(self, num_variants: int, max_places: int = MAX_VARIANT_PLACES) -> None:
        self.num_blocks = 0
        self.restarts = 0
        """How often all was forgotten at the bound: what is won across such a moment is not seen."""
        self._max_places = max_places
        self._keys = np.zeros(MIN_PLACES, dtype=np.uint64)
        self._masks = np.zeros(MIN_PLACES, dtype=np.uint64)
        self._num_variants = num_variants

    def touch(self, keys: BlockKeys, bits: int) -> NDArray[np.int64]:
        """Leading blocks that each variant in ``bits`` had, and has from now on."""
        leading = np.zeros(self._num_variants, dtype=np.int64)
        while self.num_blocks + len(keys) > FILL * len(self._keys):
            if len(self._keys) >= self._max_places:
                self.restarts += 1
                self._keys[:] = 0
                self.num_blocks = 0
                if len(keys) <= FILL * len(self._keys):
                    break
            old_keys, old_masks = self._keys, self._masks
            self._keys = np.zeros(2 * len(old_keys), dtype=np.uint64)
            self._masks = np.zeros(2 * len(old_keys), dtype=np.uint64)
            kernels.refill_variants(old_keys, old_masks, self._keys, self._masks)
        self.num_blocks += kernels.touch_variants(keys, np.uint64(bits), self._keys, self._masks, leading)
        return leading


def _empty(places: int) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.uint8]]:
    return (
        np.zeros(places, dtype=np.uint64),
        np.zeros(places, dtype=np.int32),
        np.zeros(places, dtype=np.uint8),
    )
