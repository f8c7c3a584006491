"""An engine's paged prefix cache, by block keys only: which blocks exist, and who holds them.

It follows vLLM's block pool (`vllm/v1/core/block_pool.py`, 0.32). Blocks are held by requests or idle. An
idle block can be hit until somebody else takes its place; idle ones are evicted least recently freed first,
a chain's tail before its head. A prompt's last token is always computed: its block, or one that two requests
compute side by side, can be there in several copies.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar


@dataclass(slots=True, eq=False)
class Block:
    """One copy of a full block."""

    key: int
    num_holders: int = 1


@dataclass(slots=True, eq=False)
class Holding:
    """The blocks of one request."""

    keys: Sequence[int]
    """Keys of all full blocks that the request will ever have."""
    full: list[Block] = field(default_factory=list)
    num_partial: int = 0
    """Blocks that are not full yet, which nobody else can use: none or one."""
    next_change: int = 0
    """The number of tokens from which on it needs another block, or has another one full."""


H = TypeVar("H", bound=Holding)


class PagedCache(Generic[H]):
    """A fixed number of blocks. Conservation law: held + idle <= total, see `check_integrity`."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.evicted_blocks = 0
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._num_held = 0
        self._copies: dict[int, list[Block]] = {}
        self._idle: OrderedDict[Block, None] = OrderedDict()
        self._stored: list[int] = []
        self._removed: list[int] = []

    @property
    def usage(self) -> float:
        """Share of the blocks that somebody holds."""
        return self._num_held / self.num_blocks

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-num_tokens // self.block_size)

    def find_hits(self, holding: H, num_tokens: int) -> list[Block]:
        """The blocks that hold the beginning of so many tokens. The last token is always left to compute."""
        hits = []
        for key in holding.keys[: (num_tokens - 1) // self.block_size]:
            copies = self._copies.get(key)
            if copies is None:
                break
            hits.append(copies[0])
        return hits

    def grow(self, holding: H, num_tokens: int, hits: Sequence[Block] = ()) -> bool:
        """Hold blocks for so many tokens in all, hits first. All that are full can be hit from now on.

        False, and no change, when too few blocks are free.
        """
        if num_tokens < holding.next_change:
            return True
        num_full, rest = divmod(num_tokens, self.block_size)
        num_partial = 1 if rest else 0
        num_new = num_full + num_partial - len(hits) - len(holding.full) - holding.num_partial
        num_taken = num_new + sum(not block.num_holders for block in hits)
        if self._num_held + num_taken > self.num_blocks:
            return False
        self._num_held += num_taken
        self._share(hits)
        self._evict()
        holding.full += hits
        holding.full += [self._store(key) for key in holding.keys[len(holding.full) : num_full]]
        holding.num_partial = num_partial
        holding.next_change = (num_full + num_partial) * self.block_size + (not rest)
        return True

    def free(self, holding: H) -> None:
        """Give a request's blocks back; its tail will be evicted first."""
        self._num_held -= holding.num_partial
        for block in reversed(holding.full):
            block.num_holders -= 1
            if not block.num_holders:
                self._num_held -= 1
                self._idle[block] = None
        holding.full = []
        holding.num_partial = holding.next_change = 0

    def take_events(self) -> tuple[list[int], list[int]]:
        """Keys of which the first copy was stored, and of which the last was removed, since the last call.

        Of one engine step: what it stores cannot be removed before the next, so removals come first.
        """
        events = self._stored, self._removed
        self._stored, self._removed = [], []
        return events

    def check_integrity(self, holdings: Collection[H]) -> None:
        """Raise `AssertionError` unless the cache holds exactly what these live requests hold."""
        held = Counter(block for holding in holdings for block in holding.full)
        assert all(block.num_holders == count for block, count in held.items())
        assert not any(block.num_holders for block in self._idle)
        assert self._num_held == len(held) + sum(holding.num_partial for holding in holdings)
        assert self._num_held + len(self._idle) <= self.num_blocks
        copies = [block for blocks in self._copies.values() for block in blocks]
        assert len(copies) == len(held) + len(self._idle)
        assert set(copies) == held.keys() | self._idle.keys()
        assert all(block.key == key for key, blocks in self._copies.items() for block in blocks)
        assert all(self._copies.values())

    def _share(self, hits: Sequence[Block]) -> None:
        for block in hits:
            if not block.num_holders:
                del self._idle[block]
            block.num_holders += 1

    def _evict(self) -> None:
        """Make room for what is held now."""
        for _ in range(self._num_held + len(self._idle) - self.num_blocks):
            block, _ = self._idle.popitem(last=False)
            self.evicted_blocks += 1
            copies = self._copies[block.key]
            copies.remove(block)
            if not copies:
                del self._copies[block.key]
            self._note_removed(block.key, not copies)

    def _store(self, key: int) -> Block:
        block = Block(key)
        copies = self._copies.setdefault(key, [])
        if not copies:
            self._note_stored(key)
        copies.append(block)
        return block

    def _note_stored(self, key: int) -> None:
        """The first copy of a block was stored."""
        self._stored.append(key)

    def _note_removed(self, key: int, is_last: bool) -> None:
        """A copy of a block was evicted."""
        if is_last:
            self._removed.append(key)
