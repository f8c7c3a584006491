"""The paged prefix cache of one simulated engine: which blocks exist, who holds them, what they remember.

It follows vLLM's block pool (`vllm/v1/core/block_pool.py`, 0.32). A block is held by one or more requests, or
it is free. A free block keeps its content and can be hit again until somebody else takes it, least recently
freed first. Conservation law, checked by `BlockManager.check_integrity`: free + used = total.
"""

import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import xxhash

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


class CacheIntegrityError(Exception):
    """The cache contradicts itself; the message says where."""


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA adapter. Its KV blocks are never shared with the base model's."""

    id: int
    name: str


@dataclass(slots=True, eq=False)
class TokenChain:
    """The tokens of one request, the chained hashes of their full blocks, and the blocks it holds."""

    tokens: list[int]
    cache_salt: str | None = None
    lora: Lora | None = None
    hashes: list[int] = field(default_factory=list)
    block_ids: list[int] = field(default_factory=list)
    num_cached_blocks: int = 0


class BlockManager:
    """A fixed number of blocks, shared by chains that begin with the same tokens."""

    def __init__(
        self, num_blocks: int, block_size: int, hash_seed: int, emit: Callable[[Event], None]
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._seed = hash_seed
        self._emit = emit
        self._ref_counts = [0] * num_blocks
        self._hashes: list[int | None] = [None] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._cached: dict[int, list[int]] = {}

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody holds, whether or not they can still be hit."""
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks that somebody holds."""
        return 1 - len(self._free) / self.num_blocks

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-num_tokens // self.block_size)

    def find_hits(self, chain: TokenChain) -> list[int]:
        """Blocks that hold the beginning of a chain. The last token is always left to compute."""
        self._extend_hashes(chain, len(chain.tokens) // self.block_size)
        hits = []
        for block_hash in chain.hashes[: (len(chain.tokens) - 1) // self.block_size]:
            copies = self._cached.get(block_hash)
            if copies is None:
                break
            hits.append(copies[0])
        return hits

    def grow(self, chain: TokenChain, num_tokens: int, hits: Sequence[int] = ()) -> bool:
        """Hold blocks for so many tokens in all, hits first. False, and no change, when too few are free."""
        num_new = self.num_blocks_for(num_tokens) - len(chain.block_ids) - len(hits)
        num_idle_hits = sum(self._ref_counts[block_id] == 0 for block_id in hits)
        if max(num_new, 0) + num_idle_hits > len(self._free):
            return False
        for block_id in hits:
            if self._ref_counts[block_id] == 0:
                del self._free[block_id]
            self._ref_counts[block_id] += 1
        chain.block_ids.extend(hits)
        chain.num_cached_blocks += len(hits)
        chain.block_ids.extend(self._take() for _ in range(num_new))
        return True

    def commit(self, chain: TokenChain, num_computed: int) -> None:
        """Make the full blocks among the first ``num_computed`` tokens available to others."""
        first, end = chain.num_cached_blocks, num_computed // self.block_size
        if first >= end:
            return
        self._extend_hashes(chain, end)
        for block_id, block_hash in zip(chain.block_ids[first:end], chain.hashes[first:end], strict=True):
            self._hashes[block_id] = block_hash
            self._cached.setdefault(block_hash, []).append(block_id)
        chain.num_cached_blocks = end
        self._emit(self._stored(chain, first, end))

    def free(self, chain: TokenChain) -> None:
        """Give a chain's blocks back: its tail is evicted first, what can never be hit before anything."""
        for block_id in reversed(chain.block_ids):
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] == 0:
                self._free[block_id] = None
                if self._hashes[block_id] is None:
                    self._free.move_to_end(block_id, last=False)
        chain.block_ids = []
        chain.num_cached_blocks = 0

    def clear(self) -> bool:
        """Forget all content. Refused (False) while anybody holds a block."""
        if len(self._free) != self.num_blocks:
            return False
        self._cached.clear()
        self._hashes = [None] * self.num_blocks
        self._emit(AllBlocksCleared())
        return True

    def check_integrity(self, chains: Iterable[TokenChain]) -> None:
        """Raise `CacheIntegrityError` unless blocks, free list, hashes and the given live chains agree."""
        held = Counter(block_id for chain in chains for block_id in chain.block_ids)
        used = [block_id for block_id, count in enumerate(self._ref_counts) if count]
        if len(self._free) + len(used) != self.num_blocks:
            raise CacheIntegrityError(f"{len(self._free)} free + {len(used)} used != {self.num_blocks}")
        for block_id, count in enumerate(self._ref_counts):
            if count != held[block_id] or (count == 0) != (block_id in self._free):
                raise CacheIntegrityError(f"block {block_id}: count {count}, held by {held[block_id]} chains")
        remembered = {block_id: block_hash for block_hash, ids in self._cached.items() for block_id in ids}
        if remembered != {
            i: block_hash for i, block_hash in enumerate(self._hashes) if block_hash is not None
        }:
            raise CacheIntegrityError("the hash table and the blocks disagree")

    def _take(self) -> int:
        block_id, _ = self._free.popitem(last=False)
        block_hash = self._hashes[block_id]
        if block_hash is not None:
            self._evict(block_id, block_hash)
        self._ref_counts[block_id] = 1
        return block_id

    def _evict(self, block_id: int, block_hash: int) -> None:
        copies = self._cached[block_hash]
        copies.remove(block_id)
        if not copies:
            del self._cached[block_hash]
        self._hashes[block_id] = None
        self._emit(BlockRemoved(block_hashes=[block_hash], medium=MEDIUM_GPU, group_idx=0))

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

    def _stored(self, chain: TokenChain, first: int, end: int) -> BlockStored:
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
