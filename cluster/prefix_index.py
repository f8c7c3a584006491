"""Which replicas hold which blocks, and how many leading blocks of a prompt each of them holds.

Replicas are numbered by slots, and a block's holders are one integer used as a bitset: a lookup walks the
prompt's keys once for all replicas together and stops where nobody is left.

Beside what events confirmed, the index holds expectations: blocks of a prompt just sent somewhere, which
count as held there until they are forgotten. Confirmed entries are bounded by ``max_blocks``; beyond it new
blocks are not taken in (and counted), so predictions become too low, never too high.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.radix_tree import RadixTree
from policies.types import Counts

FEW = 8
"""Holders that are quicker to go through one by one than all together."""
DEFAULT_MAX_BLOCKS = 20_000_000
"""Distinct blocks; about 200 bytes each."""


@dataclass(frozen=True, slots=True, eq=False)
class Expectation:
    """A prompt's blocks that one replica is expected to hold soon. Give it back to `PrefixIndex.forget`."""

    slot: int
    keys: Sequence[int]


class PrefixIndex:
    """Confirmed and expected holders of every known block."""

    def __init__(self, max_blocks: int = DEFAULT_MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._holders: dict[int, int] = {}
        self._owned: dict[int, set[int]] = {}
        self._expected = RadixTree()
        self._expectations: dict[int, set[Expectation]] = {}
        self._num_slots = 0
        self.refused_blocks = 0
        """Blocks not taken in because the index was full."""

    def __len__(self) -> int:
        """Distinct confirmed blocks."""
        return len(self._holders)

    @property
    def full(self) -> bool:
        """Whether new blocks are not taken in."""
        return len(self._holders) >= self._max_blocks

    def add_replica(self) -> int:
        """Take the lowest free slot for a new replica."""
        slot = next(number for number in range(len(self._owned) + 1) if number not in self._owned)
        self._begin(slot)
        return slot

    def restart_replica(self, slot: int) -> None:
        """Forget what a replica holds and what was expected of it; it keeps its slot."""
        self.remove_replica(slot)
        self._begin(slot)

    def _begin(self, slot: int) -> None:
        self._num_slots = max(self._num_slots, slot + 1)
        self._owned[slot] = set()
        self._expectations[slot] = set()

    def remove_replica(self, slot: int) -> None:
        """Forget a replica, what it holds and what was expected of it."""
        self.clear(slot)
        for expectation in list(self._expectations[slot]):
            self.forget(expectation)
        del self._owned[slot], self._expectations[slot]

    def clear(self, slot: int) -> None:
        """The replica no longer holds anything that was confirmed."""
        _drop(self._holders, 1 << slot, self._owned[slot])
        self._owned[slot] = set()

    def store(self, slot: int, keys: Collection[int]) -> None:
        """The replica holds these blocks now."""
        bit, holders = 1 << slot, self._holders
        if len(holders) + len(keys) > self._max_blocks:
            keys = self._admissible(keys)
        held_by = holders.get
        for key in keys:
            holders[key] = held_by(key, 0) | bit
        self._owned[slot].update(keys)

    def remove(self, slot: int, keys: Iterable[int]) -> None:
        """The replica no longer holds these blocks. Unknown ones are ignored."""
        owned = self._owned[slot]
        gone = owned.intersection(keys)
        owned -= gone
        _drop(self._holders, 1 << slot, gone)

    def num_confirmed(self, slot: int, keys: Sequence[int], known: int) -> int:
        """How many leading blocks of a prompt are confirmed for a replica, when ``known`` of them were."""
        owned = self._owned[slot]
        if known < len(keys) and keys[-1] in owned:  # computed after all before it, even if an event was lost
            return len(keys)
        while known < len(keys) and keys[known] in owned:
            known += 1
        return known

    def owned(self, slot: int) -> frozenset[int]:
        """A copy of what is confirmed for one replica."""
        return frozenset(self._owned[slot])

    def num_owned(self, slot: int) -> int:
        """How many blocks are confirmed for one replica."""
        return len(self._owned[slot])

    def expected(self, slot: int) -> frozenset[int]:
        """What is expected of one replica."""
        return frozenset(key for expectation in self._expectations[slot] for key in expectation.keys)

    def expect(self, slot: int, keys: Sequence[int]) -> Expectation:
        """Count these blocks, in the order of their prompt and without gaps, as held by the replica until the
        expectation is forgotten.
        """
        expectation = Expectation(slot, keys)
        self._expectations[slot].add(expectation)
        self._expected.add(slot, keys)
        return expectation

    def forget(self, expectation: Expectation) -> None:
        """Take an expectation back. Harmless when that has been done, or its replica is gone."""
        expectations = self._expectations.get(expectation.slot, set())
        if expectation in expectations:
            expectations.remove(expectation)
            self._expected.remove(expectation.slot, expectation.keys)

    def matched_blocks(self, keys: Sequence[int]) -> Counts:
        """How many leading blocks of a prompt each slot holds."""
        matched = np.zeros(self._num_slots, dtype=np.int64)
        confirmed, starts = self._holders.get, self._expected.starts
        expected = [0] * len(keys)
        remaining = -1
        for depth, key in enumerate(keys):
            if key in starts:
                for start, end, slots in self._expected.spans(keys, depth):
                    expected[start:end] = [held_by | slots for held_by in expected[start:end]]
            held_by = remaining & (confirmed(key, 0) | expected[depth])
            if held_by != remaining:
                if depth:
                    _record(matched, remaining & ~held_by, depth)
                if not held_by:
                    return matched
                remaining = held_by
        if remaining > 0:
            _record(matched, remaining, len(keys))
        return matched

    def _admissible(self, keys: Iterable[int]) -> list[int]:
        """Those for which there is room; the others are counted."""
        room, admitted = self._max_blocks - len(self._holders), []
        new: set[int] = set()
        for key in keys:
            if key in self._holders or key in new:
                admitted.append(key)
            elif len(new) < room:
                new.add(key)
                admitted.append(key)
            else:
                self.refused_blocks += 1
        return admitted

    def check_integrity(self) -> None:
        """Holders are exactly the union of what each replica owns, and likewise for expectations.

        Raises `AssertionError` otherwise.
        """
        union: dict[int, int] = {}
        for slot, keys in self._owned.items():
            for key in keys:
                union[key] = union.get(key, 0) | (1 << slot)
        expected = Counter(
            (slot, key)
            for slot, expectations in self._expectations.items()
            for expectation in expectations
            for key in expectation.keys
        )
        if union != self._holders or expected != self._expected.counts():
            raise AssertionError("the index disagrees with the union of its replicas")


def _drop(holders: dict[int, int], bit: int, keys: Iterable[int]) -> None:
    """Take one holder off its blocks."""
    for key in keys:
        held_by = holders[key] ^ bit
        if held_by:
            holders[key] = held_by
        else:
            del holders[key]


def _record(matched: Counts, slots: int, depth: int) -> None:
    """Note a depth for a set of slots."""
    if slots.bit_count() > FEW:
        octets = np.frombuffer(slots.to_bytes(-(-len(matched) // 8), "little"), dtype=np.uint8)
        matched[np.unpackbits(octets, count=len(matched), bitorder="little").view(np.bool_)] = depth
        return
    while slots:
        lowest = slots & -slots
        matched[lowest.bit_length() - 1] = depth
        slots ^= lowest
