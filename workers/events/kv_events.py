"""vLLM's KV events: their wire format, and a stream of them in which nothing is missing without being said.

Read from `vllm/distributed/kv_events.py` (0.32). A PUB socket sends (topic, 8-byte big-endian sequence,
msgpack); a ROUTER socket replays what it still buffers from a sequence number on, and ends with sequence
-1. Sequences start at 0 with each engine process. There is no snapshot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from workers.errors import EventFormatError

BlockHash = int | bytes


class BlockStored(msgspec.Struct, tag=True, gc=False):
    """The engine has cached consecutive full blocks. Fields as in vLLM; ones added later are ignored."""

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    """Per block: LoRA name, (multimodal id, offset) pairs, cache salt in block 0, embedding digests."""
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    ownership: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, gc=False):
    """The engine has dropped one copy of each of these blocks."""

    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, gc=False):
    """The engine has dropped its whole cache."""


Event = BlockStored | BlockRemoved | AllBlocksCleared

EVENT_TYPES: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (BlockStored, BlockRemoved, AllBlocksCleared)
}


class _Batch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[Event]


class _LooseBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[Any]


@dataclass(frozen=True, slots=True)
class EventSource:
    """Where one data-parallel rank of an engine publishes its events."""

    rank: int
    endpoint: str
    replay_endpoint: str | None
    topic: str
    on_all_interfaces: bool = False
    """Whether whoever reaches the engine's machine can read them, and so the tokens of prompts."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """The events of one engine step."""

    timestamp: float
    events: Sequence[Event]
    unknown: int = 0
    """Events of a kind that this version does not know; they are left out."""


_strict = msgspec.msgpack.Decoder(_Batch)
_loose = msgspec.msgpack.Decoder(_LooseBatch)


def decode_batch(payload: bytes) -> EventBatch:
    """Decode one payload. Unknown kinds of events are counted, unknown fields ignored.

    Raises `EventFormatError` for what is no batch of events.
    """
    try:
        batch = _strict.decode(payload)
    except msgspec.ValidationError:
        return _decode_loosely(payload)
    except msgspec.DecodeError as error:
        raise EventFormatError(f"KV events: {error}") from error
    return EventBatch(batch.ts, batch.events)


def _decode_loosely(payload: bytes) -> EventBatch:
    try:
        batch = _loose.decode(payload)
        events = [_convert(event) for event in batch.events]
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise EventFormatError(f"KV events: {error}") from error
    known = [event for event in events if event is not None]
    return EventBatch(batch.ts, known, unknown=len(events) - len(known))


def _convert(event: Any) -> Event | None:
    """One event; None when its kind is unknown. Older engines send fields by position, the tag first."""
    if isinstance(event, list) and event and isinstance(event[0], str):
        kind = EVENT_TYPES.get(event[0])
        fields = dict(zip(kind.__struct_fields__, event[1:], strict=False)) if kind else {}
    elif isinstance(event, dict):
        kind, fields = EVENT_TYPES.get(event.get("type", "")), event
    else:
        raise EventFormatError(f"KV events: {type(event).__name__} where an event should be")
    if kind is None:
        return None
    return msgspec.convert({**fields, "type": kind.__name__}, kind)
