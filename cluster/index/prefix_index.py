"""Which replicas hold which blocks, and how many leading blocks of a prompt each of them holds.

Replicas are numbered by slots. A lookup walks the prompt's keys once for all replicas together
(`cluster/index/block_table.py`) and stops where nobody is left.

Beside what events confirmed, the index holds expectations: blocks of a prompt just sent somewhere, which
count as held there until they are forgotten. Confirmed entries are bounded by ``max_blocks``; beyond it new
blocks are not taken in (and counted), so predictions become too low, never too high.

Keys are quickest as arrays of unsigned 64-bit numbers; whoever has lists may give those.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.index.block_table import BlockKeys, BlockTable, as_keys
from cluster.index.evicted_blocks import EvictedBlocks, Outcome
from cluster.index.radix_tree import RadixTree
from policies.types import Counts

DEFAULT_MAX_BLOCKS = 64_000_000
"""Distinct blocks; about 16 bytes each."""
WALKED_BLOCKS = 500_000
"""Up to so many, all are looked at when a replica loses its blocks, 3 ms at most; of more, the table knows
for a while which nobody holds."""
BLOCKS_AT_ONCE = 32
"""Blocks of a prompt that is being computed which are looked for at once: about as many turn up together."""


@dataclass(slots=True, eq=False)
class Expectation:
    """A prompt's blocks that one replica is expected to hold soon. Give it back to `PrefixIndex.forget`."""

    slot: int
    keys: BlockKeys


class PrefixIndex:
    """Confirmed and expected holders of every known block."""

    def __init__(self, max_blocks: int = DEFAULT_MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._confirmed = BlockTable(max_blocks)
        self.evicted = EvictedBlocks()
        self._has_dead = False
        """Whether the table itself may know of blocks that nobody holds any more."""
        self._expected = RadixTree()
        self._expectations: dict[int, set[Expectation]] = {}
        """What is expected, by slot; a slot for which nothing is expected is in use all the same."""
        self._num_slots = 0

    def __len__(self) -> int:
        """Distinct confirmed blocks."""
        return len(self._confirmed)

    @property
    def full(self) -> bool:
        """Whether new blocks are not taken in."""
        return len(self) >= self._max_blocks

    @property
    def refused_blocks(self) -> int:
        """Blocks not taken in because the index was full."""
        return self._confirmed.refused

    def add_replica(self) -> int:
        """Take the lowest free slot for a new replica."""
        used = self._expectations
        slot = next(number for number in range(len(used) + 1) if number not in used)
        self._confirmed.make_room_for(slot)
        self._num_slots = max(self._num_slots, slot + 1)
        self._expectations[slot] = set()
        return slot

    def restart_replica(self, slot: int) -> None:
        """Forget what a replica holds and what was expected of it; it keeps its slot."""
        self.remove_replica(slot)
        self._expectations[slot] = set()

    def remove_replica(self, slot: int) -> None:
        """Forget a replica, what it holds and what was expected of it."""
        self._clear(slot, Outcome.LOST)
        for expectation in list(self._expectations[slot]):
            self.forget(expectation)
        del self._expectations[slot]

    def clear(self, slot: int) -> None:
        """The replica no longer holds anything that was confirmed."""
        self._clear(slot, Outcome.EVICTED)

    def outcomes(self, keys: BlockKeys) -> list[tuple[Outcome, int]]:
        """What became of leading blocks, of which nobody holds the first: outcomes, and how many have each.
        In a large index what an engine cleared counts as lost, too.
        """
        runs = self.evicted.leading(keys)
        known = sum(count for _, count in runs)
        if self._has_dead and known < len(keys) and (dead := self._confirmed.count_dead(keys[known:])):
            runs.append((Outcome.LOST, dead))
        return runs

    def _clear(self, slot: int, outcome: Outcome) -> None:
        if len(self) <= WALKED_BLOCKS:
            self.evicted.remember(self._confirmed.owned(slot), outcome)
        else:
            self._has_dead = True
        self._confirmed.clear(slot)

    def store(self, slot: int, keys: Iterable[int]) -> None:
        """The replica holds these blocks now."""
        self._confirmed.store(slot, as_keys(keys), self._max_blocks)

    def remove(self, slot: int, keys: Iterable[int]) -> None:
        """The replica no longer holds these blocks. Unknown ones are ignored."""
        blocks = as_keys(keys)
        self._confirmed.remove(slot, blocks)
        if len(blocks):
            self.evicted.remember(blocks, Outcome.EVICTED)

    def num_confirmed(self, slot: int, keys: Sequence[int] | BlockKeys, known: int) -> int:
        """How many leading blocks of a prompt are confirmed for a replica, when ``known`` of them were."""
        if known < len(keys) and self._confirmed.count_held(slot, as_keys(keys[-1:])):
            return len(keys)  # computed after all before it, even if an event was lost
        num_held = BLOCKS_AT_ONCE
        while known < len(keys) and num_held == BLOCKS_AT_ONCE:
            num_held = self._confirmed.count_held(slot, as_keys(keys[known : known + BLOCKS_AT_ONCE]))
            known += num_held
        return known

    def owned(self, slot: int) -> frozenset[int]:
        """A copy of what is confirmed for one replica. Goes through the whole index."""
        return frozenset(self._confirmed.owned(slot).tolist())

    def owned_keys(self, slot: int, part: int, num_parts: int) -> BlockKeys:
        """What is confirmed for one replica, in no order, in one of so many equal parts of the index."""
        return self._confirmed.owned(slot, part, num_parts)

    def num_owned(self, slot: int) -> int:
        """How many blocks are confirmed for one replica."""
        return self._confirmed.num_owned(slot)

    def expected(self, slot: int) -> frozenset[int]:
        """What is expected of one replica."""
        expectations = self._expectations[slot]
        return frozenset(key for expectation in expectations for key in expectation.keys.tolist())

    def expect(self, slot: int, keys: Sequence[int] | BlockKeys) -> Expectation:
        """Count these blocks, in the order of their prompt and without gaps, as held by the replica until the
        expectation is forgotten.
        """
        expectation = Expectation(slot, as_keys(keys))
        self._expectations[slot].add(expectation)
        self._expected.add(slot, expectation.keys)
        return expectation

    def forget(self, expectation: Expectation) -> None:
        """Take an expectation back. Harmless when that has been done, or its replica is gone."""
        expectations = self._expectations.get(expectation.slot, set())
        if expectation in expectations:
            expectations.remove(expectation)
            self._expected.remove(expectation.slot, expectation.keys)

    def matched_blocks(self, keys: Sequence[int] | BlockKeys) -> Counts:
        """How many leading blocks of a prompt each slot holds."""
        blocks = as_keys(keys)
        matched = np.zeros(self._num_slots, dtype=np.int64)
        self._confirmed.match(blocks, self._spans(blocks), matched)
        return matched

    def _spans(self, keys: BlockKeys) -> NDArray[np.uint64]:
        """What is expected of a prompt's blocks, as `BlockTable.match` takes it."""
        num_words, spans = self._confirmed.num_words, self._expected.all_spans(keys)
        words = [
            (start | end << 64 | slots << 128).to_bytes(8 * (2 + num_words), "little")
            for start, end, slots in spans
        ]
        return np.frombuffer(b"".join(words), dtype=np.uint64).reshape(-1, 2 + num_words)

    def check_integrity(self) -> None:
        """What is confirmed is counted right, and what is expected equals the union of the expectations.

        Raises `AssertionError` otherwise.
        """
        expected = Counter(
            (slot, key)
            for slot, expectations in self._expectations.items()
            for expectation in expectations
            for key in expectation.keys.tolist()
        )
        if not self._confirmed.is_consistent() or expected != self._expected.counts():
            raise AssertionError("the index disagrees with the union of its replicas")
