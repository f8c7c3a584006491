"""What one engine holds in its KV cache, in our keys: the truth that Redis is a copy of.

Pure: events go in, changes come out. An engine can announce one block more than once and remove one copy of
it, so copies are counted per (source, group, engine hash); and different engine hashes can have the same
key, so holders are counted per key. Only the first store of a key and the last removal are changes.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from cluster.protocol.block_keys import KEY_BYTES, TOKEN_BYTES, block_key, pack_tokens
from workers.errors import MirrorOverflowError
from workers.events.kv_events import AllBlocksCleared, BlockHash, BlockRemoved, BlockStored, Event

PREFIX_ATTENTION = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})
"""Kinds of cache groups that hold whole prefixes; others (sliding windows, states) hold a part."""
DEVICE_MEDIUM = frozenset({None, "GPU"})
"""Where the engine computes. vLLM says GPU on CPUs too; the rest are tiers that blocks are moved to."""

BlockId = tuple[int, int | None, BlockHash]
"""Source (data-parallel rank), cache group, the engine's own hash."""


@dataclass(frozen=True, slots=True)
class Change:
    """The net effect of events on the keys owned: first ``cleared``, then ``removed``, then ``stored``."""

    stored: frozenset[int] = frozenset()
    removed: frozenset[int] = frozenset()
    cleared: bool = False

    def __bool__(self) -> bool:
        return self.cleared or bool(self.stored) or bool(self.removed)


@dataclass(slots=True)
class MirrorCounts:
    """What happened so far, in blocks."""

    stored: int = 0
    removed: int = 0
    given_up: int = 0
    """Parked ones that had to go because too many were."""
    malformed: int = 0
    """In events whose fields contradict each other."""
    other_size: int = 0
    """In blocks of another size than this mirror's."""


@dataclass(slots=True)
class _Parked:
    parent: BlockId
    tokens: bytes
    extra: bytes
    copies: int = 1


@dataclass(slots=True)
class _Draft:
    """Keys that events in progress have touched, with whether they were owned before."""

    before: dict[int, bool] = field(default_factory=dict)
    cleared: bool = False


class Mirror:
    """The blocks of one engine.

    ``root`` gives the root of the namespace for a LoRA name and a cache salt. Memory is bounded: at more than
    ``max_blocks`` copies `apply` raises `MirrorOverflowError`, because an engine cannot hold more than it
    has room for; the mirror must then be thrown away. Of more than ``max_parked`` blocks without a known
    parent the oldest are given up: that loses hits, and never claims a block that is not there.
    """

    def __init__(
        self, root: Callable[[str, str], bytes], block_size: int, max_blocks: int, max_parked: int
    ) -> None:
        self.block_size = block_size
        self.counts = MirrorCounts()
        self.seen_block_size = 0
        """Block size of the last event that had another one than this mirror."""
        self._root = root
        self._max_blocks = max_blocks
        self._max_parked = max_parked
        self._keys: dict[BlockId, int] = {}
        self._extra_copies: dict[BlockId, int] = {}
        self._holders: dict[int, int] = {}
        self._num_copies = 0
        self._parked: OrderedDict[BlockId, _Parked] = OrderedDict()
        self._children: dict[BlockId, list[BlockId]] = {}
        self._draft = _Draft()

    @property
    def num_parked(self) -> int:
        """Blocks that wait for their parent."""
        return len(self._parked)

    def __len__(self) -> int:
        return len(self._holders)

    def owned(self) -> frozenset[int]:
        """Keys of all blocks the engine holds."""
        return frozenset(self._holders)

    def apply(self, events: Iterable[Event], source: int = 0) -> Change:
        """Follow events of one source; returns what they changed, taken together."""
        self._draft = _Draft()
        for event in events:
            if isinstance(event, BlockStored):
                self._store(event, source)
            elif isinstance(event, BlockRemoved):
                self._remove(event, source)
            elif isinstance(event, AllBlocksCleared):
                self._clear(source)
        return self._finish()

    def _finish(self) -> Change:
        draft, self._draft = self._draft, _Draft()
        stored = frozenset(key for key, owned in draft.before.items() if not owned and key in self._holders)
        removed = frozenset(key for key, owned in draft.before.items() if owned and key not in self._holders)
        self.counts.stored += len(stored)
        self.counts.removed += len(removed)
        return Change(stored, removed, draft.cleared)

    def _store(self, event: BlockStored, source: int) -> None:
        hashes, size = event.block_hashes, event.block_size
        if not _is_on_device(event) or event.kv_cache_spec_kind not in PREFIX_ATTENTION:
            return
        if size != self.block_size:
            self.counts.other_size += len(hashes)
            self.seen_block_size = size
            return
        extras = event.extra_keys or [None] * len(hashes)
        if len(event.token_ids) != len(hashes) * size or len(extras) != len(hashes):
            self.counts.malformed += len(hashes)
            return
        tokens, stride = pack_tokens(event.token_ids), TOKEN_BYTES * size
        parent = (
            None if event.parent_block_hash is None else (source, event.group_idx, event.parent_block_hash)
        )
        for index, (block_hash, extra) in enumerate(zip(hashes, extras, strict=True)):
            block: BlockId = (source, event.group_idx, block_hash)
            own = tokens[index * stride : (index + 1) * stride]
            self._add(block, parent, own, extra, event.lora_name or "")
            parent = block

    def _add(
        self,
        block: BlockId,
        parent: BlockId | None,
        tokens: bytes,
        extra: Sequence[Any] | None,
        lora: str,
    ) -> None:
        if block in self._keys:
            self._extra_copies[block] = self._extra_copies.get(block, 0) + 1
            self._count_copies(1)
        elif block in self._parked:
            self._parked[block].copies += 1
        elif parent is None:
            salt, foreign = _read_extra_keys(extra, lora, is_first=True)
            self._hold(block, _chained_key(self._root(lora, salt), foreign, tokens), copies=1)
        else:
            _, foreign = _read_extra_keys(extra, lora, is_first=False)
            parent_key = self._keys.get(parent)
            if parent_key is None:
                self._park(block, _Parked(parent, tokens, foreign))
            else:
                self._hold(
                    block, _chained_key(parent_key.to_bytes(KEY_BYTES, "big"), foreign, tokens), copies=1
                )

    def _hold(self, block: BlockId, key: int, copies: int) -> None:
        """Take in a block whose key is known, and every parked block that hangs on it."""
        self._apply(block, key, copies)
        waiting = [(block, key)] if block in self._children else []
        while waiting:
            block, key = waiting.pop()
            for child in self._children.pop(block, ()):
                parked = self._parked.pop(child)
                child_key = _chained_key(key.to_bytes(KEY_BYTES, "big"), parked.extra, parked.tokens)
                self._apply(child, child_key, parked.copies)
                waiting.append((child, child_key))

    def _apply(self, block: BlockId, key: int, copies: int) -> None:
        self._keys[block] = key
        if copies > 1:
            self._extra_copies[block] = copies - 1
        self._touch(key)
        self._holders[key] = self._holders.get(key, 0) + 1
        self._count_copies(copies)

    def _count_copies(self, copies: int) -> None:
        self._num_copies += copies
        if self._num_copies > self._max_blocks:
            raise MirrorOverflowError(f"the engine announced more than {self._max_blocks} blocks at a time")

    def _remove(self, event: BlockRemoved, source: int) -> None:
        if not _is_on_device(event):
            return
        for block_hash in event.block_hashes:
            block: BlockId = (source, event.group_idx, block_hash)
            if block in self._keys:
                self._release(block)
            elif block in self._parked:
                self._parked[block].copies -= 1
                if not self._parked[block].copies:
                    self._unpark(block)

    def _release(self, block: BlockId) -> None:
        """Drop one copy of a block."""
        self._num_copies -= 1
        extra = self._extra_copies.get(block, 0)
        if extra > 1:
            self._extra_copies[block] = extra - 1
        elif extra:
            del self._extra_copies[block]
        else:
            key = self._keys.pop(block)
            self._touch(key)
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]

    def _clear(self, source: int) -> None:
        for block in [block for block in self._parked if block[0] == source]:
            self._unpark(block)
        if all(block[0] == source for block in self._keys):
            before = self._draft.before
            self.counts.removed += sum(before.values()) + sum(key not in before for key in self._holders)
            self._keys.clear()
            self._extra_copies.clear()
            self._holders.clear()
            self._num_copies = 0
            self._draft = _Draft(cleared=True)
            return
        for block in [block for block in self._keys if block[0] == source]:
            for _ in range(1 + self._extra_copies.get(block, 0)):
                self._release(block)

    def _park(self, block: BlockId, parked: _Parked) -> None:
        while len(self._parked) >= self._max_parked:
            self._unpark(next(iter(self._parked)))
            self.counts.given_up += 1
        self._parked[block] = parked
        self._children.setdefault(parked.parent, []).append(block)

    def _unpark(self, block: BlockId) -> None:
        parent = self._parked.pop(block).parent
        siblings = self._children[parent]
        siblings.remove(block)
        if not siblings:
            del self._children[parent]

    def _touch(self, key: int) -> None:
        self._draft.before.setdefault(key, key in self._holders)

    def check_integrity(self) -> None:
        """Check the conservation laws; raises `AssertionError` naming the one that is broken."""
        holders: dict[int, int] = {}
        for key in self._keys.values():
            holders[key] = holders.get(key, 0) + 1
        _law("holders per key = blocks with that key", holders == self._holders)
        copies = len(self._keys) + sum(self._extra_copies.values())
        _law("copies = blocks + extra copies", copies == self._num_copies)
        _law("extra copies only of blocks held", self._extra_copies.keys() <= self._keys.keys())
        _law("extra copies are positive", all(count > 0 for count in self._extra_copies.values()))
        _law("no block is held and parked", not self._keys.keys() & self._parked.keys())
        _law("no parked block has a known parent", not self._children.keys() & self._keys.keys())
        children = [(child, parent) for parent, blocks in self._children.items() for child in blocks]
        parents = [(block, parked.parent) for block, parked in self._parked.items()]
        _law(
            "each parked block hangs on its parent once",
            sorted(map(repr, children)) == sorted(map(repr, parents)),
        )
        _law("bounds", self._num_copies <= self._max_blocks and len(self._parked) <= self._max_parked)


def _is_on_device(event: BlockStored | BlockRemoved) -> bool:
    """Whether an event is about the cache that the engine computes with, and no other tier."""
    return event.medium in DEVICE_MEDIUM and event.locality != "REMOTE" and event.ownership is None


def _read_extra_keys(extra: Sequence[Any] | None, lora: str, is_first: bool) -> tuple[str, bytes]:
    """Cache salt, and all that makes a block other than its tokens (images, embeddings), as bytes."""
    rest = list(extra or ())
    if lora and lora in rest:
        rest.remove(lora)
    salt = next((item for item in rest if isinstance(item, str)), "") if is_first else ""
    if salt:
        rest.remove(salt)
    return salt, repr(rest).encode() if rest else b""


def _chained_key(parent: bytes, foreign: bytes, tokens: bytes) -> int:
    """Key of a block of packed tokens. One with foreign content hangs on a parent that no text has."""
    if foreign:
        parent = xxhash.xxh3_64_digest(b"extra keys" + parent + foreign)
    return int.from_bytes(block_key(parent, tokens), "big")


def _law(name: str, holds: bool) -> None:
    if not holds:
        raise AssertionError(f"broken: {name}")
