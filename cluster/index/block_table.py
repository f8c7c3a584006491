"""Which slots hold which blocks: about 16 bytes for a block, whoever holds it, and about 24 for each
different set of holders, or a bit for every slot where they are many.

The table's memory is reserved once for ``max_keys`` and used as it fills up.
"""

import mmap
from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cluster.index import index_kernels as kernels

# isort: off
from cluster.index.index_sets import (
    CAPACITY, FEW, FREE_ROW, FREE_SET, FULL, HIGH, LOW, MAX_CAPACITY, MIN_CAPACITY, NEXT_ROW,
    NEXT_SET, NUM_KEYS, OWNED, RECENT_BITS, REFERENCES, REFUSED, SET, SIZE, START, USED, Arrays,
)  # fmt: skip

# isort: on
from policies.types import Counts

MAX_SLOTS = 1 << 16
SEGMENT_KEYS = 1 << 16
"""A segment is laid out anew in about a millisecond when it has so many keys."""
SPARE = 1.1
"""Segments are reserved for so many times their share of keys; hashing makes them nearly equal."""

FEW_KEYS = 32
"""Quicker to convert without a detour."""

BlockKeys = NDArray[np.uint64]
NO_KEYS: BlockKeys = np.empty(0, dtype=np.uint64)


def as_keys(keys: Iterable[int]) -> BlockKeys:
    """Keys as the table wants them. An array of unsigned 64-bit numbers costs nothing, a list 30 ns a key."""
    if isinstance(keys, np.ndarray):
        usable = keys.dtype == np.uint64 and keys.flags.c_contiguous
        return keys if usable else np.ascontiguousarray(keys, dtype=np.uint64)
    if isinstance(keys, list) and len(keys) < FEW_KEYS:
        return np.array(keys, dtype=np.uint64)
    return np.frombuffer(array("Q", keys), dtype=np.uint64)


def listed(keys: BlockKeys) -> bytes:
    """Keys as JSON texts of 16 hexadecimal digits each, separated by commas: 50 ns a key."""
    if not len(keys):
        return b""
    digits = keys.astype(">u8").tobytes().hex(",", 8)
    return b'"' + digits.replace(",", '","').encode() + b'"'


def unpack(data: bytes) -> BlockKeys:
    """The keys of `cluster.protocol.block_keys.pack_keys`. Raises `ValueError` for other lengths than of
    whole keys.
    """
    return np.frombuffer(data, dtype=">u8").astype(np.uint64)


def pack(keys: BlockKeys) -> bytes:
    """The reverse of `unpack`."""
    return keys.astype(">u8").tobytes()


class BlockTable:
    """A map from keys, any 64-bit numbers, to sets of slots."""

    def __init__(self, max_keys: int) -> None:
        bits = min(max(max_keys // SEGMENT_KEYS, 1).bit_length(), 12) - 1
        room = int(SPARE * max_keys / FULL / (1 << bits)) + 4 * MIN_CAPACITY
        segments = np.zeros((1 << bits, 3), dtype=np.int64)
        segments[:, START] = np.arange(1 << bits) * room
        segments[:, CAPACITY] = MIN_CAPACITY
        counters = np.zeros(MAX_CAPACITY + 1, dtype=np.int64)
        counters[[NEXT_SET, NEXT_ROW]] = 1
        counters[MAX_CAPACITY] = room
        self._arrays = Arrays(
            entries=_reserved(room << bits),
            segments=segments,
            sets=np.zeros((64, 2), dtype=np.uint32),
            members=np.zeros((64, FEW), dtype=np.uint16),
            rows=np.zeros((16, 1), dtype=np.uint64),
            recent=np.zeros(1 << RECENT_BITS, dtype=np.uint32),
            slots=np.zeros((64, 2), dtype=np.int64),
            counters=counters,
        )
        self._counters = counters

    def __len__(self) -> int:
        """Keys that somebody holds."""
        return int(self._counters[NUM_KEYS])

    @property
    def refused(self) -> int:
        """Keys that were not taken in because the table was full."""
        return int(self._counters[REFUSED])

    @property
    def num_words(self) -> int:
        """64-bit words in a set of slots."""
        return int(self._arrays.rows.shape[1])

    def make_room_for(self, slot: int) -> None:
        """A slot is about to be used for the first time."""
        if slot >= MAX_SLOTS:
            raise ValueError(f"slot {slot}: the index has room for {MAX_SLOTS} replicas")
        arrays = self._arrays
        if slot >= len(arrays.slots):
            self._arrays = arrays = arrays._replace(slots=_extended(arrays.slots, 2 * len(arrays.slots), 2))
        if slot >= 64 * self.num_words:
            rows = _extended(arrays.rows, len(arrays.rows), 2 * self.num_words)
            self._arrays = arrays._replace(rows=rows)

    def store(self, slot: int, keys: BlockKeys, max_keys: int) -> None:
        """The slot holds these blocks now. New keys beyond ``max_keys`` are refused and counted."""
        done = 0
        while (done := kernels.store(slot, keys, done, max_keys, *self._arrays)) < len(keys):
            self._add_sets()

    def remove(self, slot: int, keys: BlockKeys) -> None:
        """The slot no longer holds these blocks. Unknown ones are ignored."""
        done = 0
        while (done := kernels.remove(slot, keys, done, *self._arrays)) < len(keys):
            self._add_sets()

    def clear(self, slot: int) -> None:
        """The slot holds nothing."""
        kernels.clear(slot, *self._arrays)

    def count_held(self, slot: int, keys: BlockKeys) -> int:
        """How many of the leading blocks a slot holds."""
        return kernels.count_held(slot, keys, *self._arrays[:5])

    def count_dead(self, keys: BlockKeys) -> int:
        """How many leading blocks a slot held when it was cleared, and nobody since. They are forgotten as
        the table makes room.
        """
        return kernels.count_dead(keys, *self._arrays[:5])

    def next_held(self, keys: BlockKeys, start: int) -> int:
        """The first place from ``start`` on whose block somebody holds; ``len(keys)`` if there is none."""
        return kernels.next_held(keys, start, *self._arrays[:5])

    def match(self, keys: BlockKeys, spans: NDArray[np.uint64], matched: Counts) -> None:
        """How many leading blocks each slot holds, into ``matched``, which has room for all slots, zeros.

        Each row of ``spans`` is a first place, an end, and `num_words` words of a set of slots, which hold
        the blocks between them as well.
        """
        kernels.match(keys, spans, matched, *self._arrays[:5])

    def num_owned(self, slot: int) -> int:
        """How many blocks a slot holds."""
        return int(self._arrays.slots[slot, OWNED])

    def owned(self, slot: int, part: int = 0, num_parts: int = 1) -> BlockKeys:
        """The blocks that a slot holds, in no order; those in one of so many equal parts of the table. Goes
        through that part of the table: about 20 ns for each block, whoever holds it.
        """
        found = [NO_KEYS]
        if self.num_owned(slot):
            holding, segments = self._holding(slot), self._used_segments(part, num_parts)
            found += [_keys_of(entries[holding[entries[:, SET]]]) for entries in segments]
        return np.concatenate(found)

    def _used_segments(self, part: int = 0, num_parts: int = 1) -> list[NDArray[np.uint32]]:
        """The entries of every segment that has any, in one of so many equal parts of the table."""
        segments = self._arrays.segments
        first, end = (len(segments) * number // num_parts for number in (part, part + 1))
        return [
            self._arrays.entries[start : start + capacity]
            for start, capacity, used in segments[first:end].tolist()
            if used
        ]

    def _holding(self, slot: int) -> NDArray[np.bool_]:
        """For each set, whether a slot is in it."""
        sets, members, rows = self._arrays.sets, self._arrays.members, self._arrays.rows
        size = np.where(sets[:, REFERENCES], sets[:, SIZE], 0)
        few = (members == slot) & (np.arange(FEW) < size[:, np.newaxis])
        holding: NDArray[np.bool_] = few.any(axis=1) & (size <= FEW)
        many = np.flatnonzero(size > FEW)
        row = members[many, 0] | members[many, 1].astype(np.int64) << 16
        holding[many] = rows[row, slot >> 6] >> np.uint64(slot & 63) & np.uint64(1)
        return holding

    def _add_sets(self) -> None:
        """Twice as many sets, or rows, where they have run out."""
        arrays, counters = self._arrays, self._counters
        if not counters[FREE_SET] and counters[NEXT_SET] == len(arrays.sets):
            count = 2 * len(arrays.sets)
            arrays = arrays._replace(
                sets=_extended(arrays.sets, count, 2), members=_extended(arrays.members, count, FEW)
            )
        if not counters[FREE_ROW] and counters[NEXT_ROW] == len(arrays.rows):
            arrays = arrays._replace(rows=_extended(arrays.rows, 2 * len(arrays.rows), self.num_words))
        self._arrays = arrays

    def is_consistent(self) -> bool:
        """Whether every set counts its entries, every slot its blocks, and every key is found.
        Goes through everything.
        """
        arrays = self._arrays
        parts = [part[part[:, SET] > 0] for part in self._used_segments()]
        entries = np.concatenate([arrays.entries[:0], *parts])
        references = np.bincount(entries[:, SET], minlength=len(arrays.sets))
        owned = arrays.slots[:, OWNED]
        keys = _keys_of(entries[arrays.sets[entries[:, SET], SIZE] > 0])
        return (
            len(entries) == arrays.segments[:, USED].sum()
            and np.array_equal(references, arrays.sets[:, REFERENCES])
            and len(self) == len(keys) == len(np.unique(keys))
            and all(self.next_held(keys[place : place + 1], 0) == 0 for place in range(len(keys)))
            and owned.sum() == (references * arrays.sets[:, SIZE])[1:].sum()
            and all(owned[slot] == references[self._holding(slot)].sum() for slot in np.flatnonzero(owned))
        )


def _keys_of(entries: NDArray[np.uint32]) -> BlockKeys:
    halves = entries.astype(np.uint64)
    return halves[:, LOW] | halves[:, HIGH] << np.uint64(32)


def _reserved(num_entries: int) -> NDArray[np.uint32]:
    """Entries that take memory page by page, when they are first written, and not as huge pages."""
    memory = mmap.mmap(-1, num_entries * 12, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint32).reshape(-1, 3)


def _extended(table: NDArray[np.generic], rows: int, columns: int) -> NDArray[np.generic]:
    """A copy with more rows or columns."""
    larger = np.zeros((rows, columns), dtype=table.dtype)
    larger[: table.shape[0], : table.shape[1]] = table
    return larger
