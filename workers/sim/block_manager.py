"""The prefix cache of one simulated engine: chains of tokens, their hashes, and their blocks' events."""

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import xxhash

from workers.sim.paged_cache import Block, Holding, PagedCache

MEDIUM_GPU = "GPU"


class KVCacheEvent(msgspec.Struct, omit_defaults=True, gc=False, tag=True):
    """Base of the cache events, named and tagged as they are on vLLM's wire."""


class BlockStored(KVCacheEvent):
    """Blocks that can be hit from now on, in chain order."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None


class BlockRemoved(KVCacheEvent):
    """One copy of a block was evicted; other copies of it may remain."""

    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(KVCacheEvent):
    """Nothing can be hit any more."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA adapter. Its KV blocks are never shared with the base model's."""

    id: int
    name: str


class TokenChain(Holding):
    """The tokens of one request, the chained hashes of their full blocks, and the blocks it holds."""

    __slots__ = ("cache_salt", "hashes", "lora", "tokens")

    def __init__(self, tokens: list[int], cache_salt: str | None = None, lora: Lora | None = None) -> None:
        self.tokens = tokens
        self.cache_salt = cache_salt
        self.lora = lora
        self.hashes: list[int] = []
        super().__init__(self.hashes)


class BlockManager(PagedCache[TokenChain]):
    """A paged cache for tokens: it knows blocks by chained hashes, and emits vLLM's events."""

    def __init__(
        self, num_blocks: int, block_size: int, hash_seed: int, emit: Callable[[Event], None]
    ) -> None:
        super().__init__(num_blocks, block_size)
        self._seed = hash_seed
        self._emit = emit

    def find_hits(self, holding: TokenChain, num_tokens: int) -> list[Block]:
        """The blocks that hold the beginning of a chain. The last token is always left to compute."""
        self._extend_hashes(holding, num_tokens // self.block_size)
        return super().find_hits(holding, num_tokens)

    def grow(self, holding: TokenChain, num_tokens: int, hits: Sequence[Block] = ()) -> bool:
        """Hold blocks for so many tokens in all, hits first, and announce those that are full.

        False, and no change, when too few blocks are free.
        """
        self._extend_hashes(holding, num_tokens // self.block_size)
        first = len(holding.full) + len(hits)
        grown = super().grow(holding, num_tokens, hits)
        if grown and len(holding.full) > first:
            self._emit(self._stored_event(holding, first, len(holding.full)))
        return grown

    def clear(self) -> bool:
        """Forget all content. Refused (False) while anybody holds a block."""
        if self._num_held:
            return False
        self._copies.clear()
        self._idle.clear()
        self._emit(AllBlocksCleared())
        return True

    def _note_stored(self, key: int) -> None:
        """Events tell of all blocks of a chain together."""

    def _note_removed(self, key: int, is_last: bool) -> None:
        self._emit(BlockRemoved(block_hashes=[key], medium=MEDIUM_GPU, group_idx=0))

    def _extend_hashes(self, chain: TokenChain, num_full_blocks: int) -> None:
        start, size = len(chain.hashes), self.block_size
        if start >= num_full_blocks:
            return
        parent = chain.hashes[-1] if chain.hashes else self._root_hash(chain)
        packed = array.array("I", chain.tokens[start * size : num_full_blocks * size]).tobytes()
        stride = size * 4
        for offset in range(0, len(packed), stride):
            block = parent.to_bytes(8, "little") + packed[offset : offset + stride]
            parent = xxhash.xxh3_64_intdigest(block, self._seed)
            chain.hashes.append(parent)

    def _root_hash(self, chain: TokenChain) -> int:
        owner = repr((chain.lora.name if chain.lora else None, chain.cache_salt))
        return xxhash.xxh3_64_intdigest(owner.encode(), self._seed)

    def _stored_event(self, chain: TokenChain, first: int, end: int) -> BlockStored:
        return BlockStored(
            block_hashes=chain.hashes[first:end],
            parent_block_hash=chain.hashes[first - 1] if first else None,
            token_ids=chain.tokens[first * self.block_size : end * self.block_size],
            block_size=self.block_size,
            lora_id=chain.lora.id if chain.lora else None,
            medium=MEDIUM_GPU,
            lora_name=chain.lora.name if chain.lora else None,
            extra_keys=[_extra_keys(chain, index) for index in range(first, end)],
            group_idx=0,
        )


def _extra_keys(chain: TokenChain, index: int) -> tuple[str, ...] | None:
    """What a block's hash covers besides its tokens: the adapter in every block, the salt in the first."""
    keys = ((chain.lora.name,) if chain.lora else ()) + (
        (chain.cache_salt,) if chain.cache_salt and index == 0 else ()
    )
    return keys or None
