"""What an engine's events say of a block, and the key that this makes."""

from collections.abc import Sequence
from typing import Any

import xxhash

from cluster.protocol.block_keys import block_key
from workers.events.kv_events import BlockRemoved, BlockStored

PREFIX_ATTENTION = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})
"""Kinds of cache groups that hold whole prefixes; others (sliding windows, states) hold a part."""
DEVICE_MEDIUM = frozenset({None, "GPU"})
"""Where the engine computes. vLLM says GPU on CPUs too; the rest are tiers that blocks are moved to."""


def is_on_device(event: BlockStored | BlockRemoved) -> bool:
    """Whether an event is about the cache that the engine computes with, and no other tier."""
    return event.medium in DEVICE_MEDIUM and event.locality != "REMOTE" and event.ownership is None


def read_extra_keys(extra: Sequence[Any] | None, lora: str, is_first: bool) -> tuple[str, bytes]:
    """Cache salt, and all that makes a block other than its tokens (images, embeddings), as bytes."""
    rest = list(extra or ())
    if lora and lora in rest:
        rest.remove(lora)
    salt = next((item for item in rest if isinstance(item, str)), "") if is_first else ""
    if salt:
        rest.remove(salt)
    return salt, repr(rest).encode() if rest else b""


def chained_key(parent: bytes, foreign: bytes, tokens: bytes) -> int:
    """Key of a block of packed tokens. One with foreign content hangs on a parent that no text has."""
    if foreign:
        parent = xxhash.xxh3_64_digest(b"extra keys" + parent + foreign)
    return int.from_bytes(block_key(parent, tokens), "big")
