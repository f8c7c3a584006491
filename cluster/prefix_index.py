"""Which replicas hold which blocks, and how many leading blocks of a prompt each of them holds.

Replicas are numbered by slots, and a block's holders are one integer used as a bitset: a lookup walks the
prompt's keys once for all replicas together and stops where nobody is left.

Beside what events confirmed, the index holds expectations: blocks of a prompt just sent somewhere, which
count as held there until they are forgotten. Confirmed entries are bounded by ``max_blocks``; beyond it new
blocks are not taken in (and counted), so predictions become too low, never too high.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

DEFAULT_MAX_BLOCKS = 20_000_000
"""Distinct blocks; about 200 bytes each."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """A prompt's blocks that one replica is expected to hold soon. Give it back to `PrefixIndex.forget`."""

    slot: int
    generation: int
    keys: Sequence[int]


class PrefixIndex:
    """Confirmed and expected holders of every known block."""

    def __init__(self, max_blocks: int = DEFAULT_MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._holders: dict[int, int] = {}
        self._expected: dict[int, int] = {}
        self._owned: dict[int, set[int]] = {}
        self._expectations: dict[int, dict[int, int]] = {}
        self._generations: dict[int, int] = {}
        self._next_generation = 0
        self.refused_blocks = 0
        """Blocks not taken in because the index was full."""

    def __len__(self) -> int:
        """Distinct confirmed blocks."""
        return len(self._holders)

    def add_replica(self) -> int:
        """Take the lowest free slot for a new replica."""
        slot = next(number for number in range(len(self._owned) + 1) if number not in self._owned)
        self._owned[slot] = set()
        self._expectations[slot] = {}
        self._generations[slot] = self._next_generation
        self._next_generation += 1
        return slot

    def remove_replica(self, slot: int) -> None:
        """Forget a replica, what it holds and what was expected of it."""
        self.clear(slot)
        for key in self._expectations.pop(slot):
            _drop_bit(self._expected, key, 1 << slot)
        del self._owned[slot], self._generations[slot]

    def clear(self, slot: int) -> None:
        """The replica no longer holds anything that was confirmed."""
        self._drop(1 << slot, self._owned[slot])
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
        self._drop(1 << slot, gone)

    def owned(self, slot: int) -> frozenset[int]:
        """A copy of what is confirmed for one replica."""
        return frozenset(self._owned[slot])

    def num_owned(self, slot: int) -> int:
        """How many blocks are confirmed for one replica."""
        return len(self._owned[slot])

    def expect(self, slot: int, keys: Sequence[int]) -> Expectation:
        """Count these blocks as held by the replica until the expectation is forgotten."""
        bit, counts, expected = 1 << slot, self._expectations[slot], self._expected
        for key in keys:
            counts[key] = counts.get(key, 0) + 1
            expected[key] = expected.get(key, 0) | bit
        return Expectation(slot, self._generations[slot], keys)

    def forget(self, expectation: Expectation) -> None:
        """Take an expectation back. Harmless when its replica is gone; call it once."""
        slot = expectation.slot
        if self._generations.get(slot) != expectation.generation:
            return
        bit, counts = 1 << slot, self._expectations[slot]
        for key in expectation.keys:
            count = counts[key] - 1
            if count:
                counts[key] = count
            else:
                del counts[key]
                _drop_bit(self._expected, key, bit)

    def matched_blocks(self, keys: Sequence[int]) -> dict[int, int]:
        """How many leading blocks of a prompt each slot holds; slots that hold none are left out."""
        holders, expected = self._holders, self._expected
        matched: dict[int, int] = {}
        remaining = -1
        for depth, key in enumerate(keys):
            held_by = remaining & (holders.get(key, 0) | expected.get(key, 0))
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

    def _drop(self, bit: int, keys: Iterable[int]) -> None:
        """Take one holder off its blocks."""
        holders = self._holders
        for key in keys:
            held_by = holders[key] ^ bit
            if held_by:
                holders[key] = held_by
            else:
                del holders[key]

    def check_integrity(self) -> None:
        """Holders are exactly the union of what each replica owns, and likewise for expectations.

        Raises `AssertionError` otherwise.
        """
        for holders, per_slot in ((self._holders, self._owned), (self._expected, self._expectations)):
            union: dict[int, int] = {}
            for slot, keys in per_slot.items():
                for key in keys:
                    union[key] = union.get(key, 0) | (1 << slot)
            if union != holders:
                raise AssertionError("the index disagrees with the union of its replicas")


def _drop_bit(holders: dict[int, int], key: int, bit: int) -> None:
    held_by = holders[key] & ~bit
    if held_by:
        holders[key] = held_by
    else:
        del holders[key]


def _record(matched: dict[int, int], slots: int, depth: int) -> None:
    while slots:
        lowest = slots & -slots
        matched[lowest.bit_length() - 1] = depth
        slots ^= lowest
