"""Prompts that replicas are about to hold, as a radix tree: keys that prompts share are stored once, and a
prompt costs a few steps, however long it is.

Keys are chained: a key says what stands before it. So a prompt is a path, and two prompts that share a key
share the path up to it.
"""

from collections import Counter
from collections.abc import Sequence

from cluster.index.block_table import BlockKeys, BlockTable, as_keys
from cluster.index.index_sets import KEYS, Table
from policies.compiled import kernel

MAX_STARTS = 1 << 20
"""Different first keys of paths; those beyond are not found in the middle of a prompt."""

FEW_KEYS = 128
"""Up to so many blocks are looked up one by one, in 40 ns each; to call compiled code takes 3 us."""
MAX_CHANGED = 1024

Span = tuple[int, int, int]
"""A first place in a prompt, an end, and a bitset of slots."""


@kernel(f"int64({KEYS}, {KEYS}, int64)")
def num_equal(keys: Table, path: Table, start: int) -> int:
    """How many of the leading keys stand in a path from ``start`` on."""
    count = 0
    while count < len(keys) and start + count < len(path) and keys[count] == path[start + count]:
        count += 1
    return count


class Run:
    """Keys that follow each other, all on their way to the same replicas."""

    __slots__ = ("branches", "counts", "keys", "slots")

    def __init__(self, keys: BlockKeys) -> None:
        self.keys = keys
        self.slots = 0
        """The set of slots, as bits."""
        self.counts: dict[int, int] = {}
        """Paths through this run, by slot."""
        self.branches: dict[int, Run] = {}
        """What follows, by first key."""

    def add(self, slot: int) -> None:
        """One more path."""
        self.counts[slot] = self.counts.get(slot, 0) + 1
        self.slots |= 1 << slot

    def remove(self, slot: int) -> None:
        """One path less."""
        self.counts[slot] -= 1
        if not self.counts[slot]:
            del self.counts[slot]
            self.slots ^= 1 << slot

    def split(self, place: int) -> None:
        """Keep the first ``place`` keys; the others become a run of their own behind them."""
        rest = Run(self.keys[place:].copy())
        rest.slots, rest.counts, rest.branches = self.slots, dict(self.counts), self.branches
        self.keys, self.branches = self.keys[:place].copy(), {int(rest.keys[0]): rest}


class RadixTree:
    """Paths of keys, each for one slot. A path may begin anywhere in a prompt."""

    def __init__(self) -> None:
        self.starts: dict[int, Run] = {}
        """First runs of paths, by first key."""
        self._start_keys = BlockTable(MAX_STARTS)
        """The same keys, to find them in long prompts: slot 0 has all of them but those that changed."""
        self._changed: set[int] = set()

    def add(self, slot: int, keys: Sequence[int] | BlockKeys) -> None:
        """Take in a path."""
        path = as_keys(keys)
        branches, start = self.starts, 0
        while start < len(path):
            first = int(path[start])
            run = branches.get(first)
            if run is None:
                run = branches[first] = Run(path[start:].copy())
                if not start:
                    self._start_changed(first)
            shared = num_equal(run.keys, path, start)
            if shared < len(run.keys):
                run.split(shared)
            run.add(slot)
            branches, start = run.branches, start + shared

    def remove(self, slot: int, keys: Sequence[int] | BlockKeys) -> None:
        """Take out a path that was taken in."""
        path = as_keys(keys)
        branches, start = self.starts, 0
        while start < len(path):
            first = int(path[start])
            run = branches[first]
            run.remove(slot)
            if not run.counts:  # and so nothing behind it has any
                del branches[first]
                if not start:
                    self._start_changed(first)
                return
            branches, start = run.branches, start + len(run.keys)

    def spans(self, keys: Sequence[int] | BlockKeys, start: int) -> list[Span]:
        """Who is about to hold which part of a prompt, on paths that begin with its key at ``start``."""
        path = as_keys(keys)
        branches, found = self.starts, []
        while start < len(path) and (run := branches.get(int(path[start]))):
            end = start + num_equal(run.keys, path, start)
            found.append((start, end, run.slots))
            if end < start + len(run.keys):
                break
            branches, start = run.branches, end
        return found

    def all_spans(self, keys: BlockKeys) -> list[Span]:
        """The same, on paths that begin anywhere in the prompt."""
        found: list[Span] = []
        if not self.starts:
            return found
        if len(keys) <= FEW_KEYS:
            for start, key in enumerate(keys.tolist()):
                if key in self.starts:
                    found += self.spans(keys, start)
            return found
        self._write_starts()
        start = self._start_keys.next_held(keys, 0)
        while start < len(keys):
            found += self.spans(keys, start)
            start = self._start_keys.next_held(keys, start + 1)
        return found

    def _start_changed(self, key: int) -> None:
        """A path begins with this key, or none does any more: written down when it is asked for."""
        self._changed.add(key)
        if len(self._changed) > MAX_CHANGED:
            self._write_starts()

    def _write_starts(self) -> None:
        begun = [key for key in self._changed if key in self.starts]
        self._start_keys.remove(0, as_keys(self._changed - self.starts.keys()))
        self._start_keys.store(0, as_keys(begun), MAX_STARTS)
        self._changed.clear()

    def counts(self) -> Counter[tuple[int, int]]:
        """How many paths of each slot contain each key, as (slot, key)."""
        found: Counter[tuple[int, int]] = Counter()
        runs = list(self.starts.values())
        while runs:
            run = runs.pop()
            runs += run.branches.values()
            for slot, count in run.counts.items():
                for key in run.keys.tolist():
                    found[slot, key] += count
        return found
