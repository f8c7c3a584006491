"""Prompts that replicas are about to hold, as a radix tree: keys that prompts share are stored once, and a
prompt costs a few steps, however long it is.

Keys are chained: a key says what stands before it. So a prompt is a path, and two prompts that share a key
share the path up to it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence


class Run:
    """Keys that follow each other, all on their way to the same replicas."""

    __slots__ = ("branches", "counts", "keys", "slots")

    def __init__(self, keys: list[int]) -> None:
        self.keys = keys
        self.slots = 0
        """Bitset."""
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

    def num_shared(self, keys: Sequence[int], start: int) -> int:
        """How many of this run's keys are also in a path, from ``start`` on."""
        most = min(len(self.keys), len(keys) - start)
        if self.keys[:most] == keys[start : start + most]:
            return most
        return next((place for place in range(most) if self.keys[place] != keys[start + place]), most)

    def split(self, place: int) -> None:
        """Keep the first ``place`` keys; the others become a run of their own behind them."""
        rest = Run(self.keys[place:])
        rest.slots, rest.counts, rest.branches = self.slots, dict(self.counts), self.branches
        self.keys, self.branches = self.keys[:place], {rest.keys[0]: rest}


class RadixTree:
    """Paths of keys, each for one slot. A path may begin anywhere in a prompt."""

    def __init__(self) -> None:
        self.starts: dict[int, Run] = {}
        """First runs of paths, by first key."""

    def add(self, slot: int, keys: Sequence[int]) -> None:
        """Take in a path."""
        branches, start = self.starts, 0
        while start < len(keys):
            run = branches.get(keys[start])
            if run is None:
                run = branches[keys[start]] = Run(list(keys[start:]))
            shared = run.num_shared(keys, start)
            if shared < len(run.keys):
                run.split(shared)
            run.add(slot)
            branches, start = run.branches, start + shared

    def remove(self, slot: int, keys: Sequence[int]) -> None:
        """Take out a path that was taken in."""
        branches, start = self.starts, 0
        while start < len(keys):
            run = branches[keys[start]]
            run.remove(slot)
            if not run.counts:  # and so nothing behind it has any
                del branches[keys[start]]
                return
            branches, start = run.branches, start + len(run.keys)

    def spans(self, keys: Sequence[int], start: int) -> Iterator[tuple[int, int, int]]:
        """Who is about to hold which part of a prompt, on paths that begin with its key at ``start``: first
        place, end and bitset of slots.
        """
        branches = self.starts
        while start < len(keys) and (run := branches.get(keys[start])):
            end = start + run.num_shared(keys, start)
            yield start, end, run.slots
            if end < start + len(run.keys):
                return
            branches, start = run.branches, end

    def counts(self) -> Counter[tuple[int, int]]:
        """How many paths of each slot contain each key, as (slot, key)."""
        found: Counter[tuple[int, int]] = Counter()
        runs = list(self.starts.values())
        while runs:
            run = runs.pop()
            runs += run.branches.values()
            for slot, count in run.counts.items():
                for key in run.keys:
                    found[slot, key] += count
        return found
