"""Answers of Anthropic's Messages API, whole and streamed, made of those of chat completions.

In vLLM's words (0.32, `vllm/entrypoints/anthropic/serving.py`): what an engine does not count is left out.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.apis.answer_blocks import Block, BlockStream, Json, Kind, Part, Step, blocks_of, event

DELTAS = {
    Kind.THOUGHTS: ("thinking_delta", "thinking"),
    Kind.TEXT: ("text_delta", "text"),
    Kind.CALL: ("input_json_delta", "partial_json"),
}


class MessageMaker:
    """Makes the answer to one request."""

    def __init__(self) -> None:
        self._stream = BlockStream()
        self._begun = False

    def whole(self, answer: Mapping[str, Any]) -> Json:
        """What an answer becomes that is not streamed."""
        choice = answer["choices"][0]
        blocks = blocks_of(choice["message"])
        content = [_content(block) for block in blocks] or [{"type": "text", "text": ""}]
        stop = _stop(choice.get("finish_reason"), choice.get("stop_reason"), blocks)
        return _message(answer, content, stop, answer.get("usage"))

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """The events that one chunk becomes."""
        if not self._begun:
            self._begun = True
            head = _message(chunk, [], {"stop_reason": None, "stop_sequence": None}, chunk.get("usage"))
            yield event({"type": "message_start", "message": head})
        for step in self._stream.feed(chunk):
            yield from _events(step)

    def close(self) -> Iterator[bytes]:
        """The events at the end."""
        stream = self._stream
        for step in stream.close():
            yield from _events(step)
        stop = _stop(stream.finish_reason, stream.stop_reason, stream.blocks)
        yield event({"type": "message_delta", "delta": stop, "usage": message_usage(stream.usage)})
        yield event({"type": "message_stop"})


def message_usage(usage: Mapping[str, Any] | None) -> Json:
    """Counts of tokens: cached ones are counted apart from the others."""
    usage = usage or {}
    details = usage.get("prompt_tokens_details") or {}
    counts: Json = {
        "input_tokens": usage.get("prompt_tokens") or 0,
        "output_tokens": usage.get("completion_tokens") or 0,
    }
    for name, detail in (
        ("cache_read_input_tokens", "cached_tokens"),
        ("cache_creation_input_tokens", "created_cache_tokens"),
    ):
        if (tokens := details.get(detail)) is not None:
            counts[name] = tokens
            counts["input_tokens"] = max(0, counts["input_tokens"] - tokens)
    return counts


def _message(
    answer: Mapping[str, Any], content: list[Json], stop: Json, usage: Mapping[str, Any] | None
) -> Json:
    return {
        "id": answer.get("id") or f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": answer.get("model"),
        **stop,
        "usage": message_usage(usage),
    }


def _stop(finish_reason: str | None, matched: Any, blocks: Sequence[Block]) -> Json:
    if finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if any(block.kind is Kind.CALL for block in blocks):
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if isinstance(matched, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": matched}
    return {"stop_reason": "end_turn", "stop_sequence": None}


def _events(step: Step) -> Iterator[bytes]:
    block = step.block
    if step.part is Part.BEGUN:
        content = _content(block, begun=True)
        yield event({"type": "content_block_start", "index": block.index, "content_block": content})
    elif step.part is Part.ADDED:
        kind, field = DELTAS[block.kind]
        yield _delta(block, {"type": kind, field: step.text})
    else:
        if block.kind is Kind.THOUGHTS:
            yield _delta(block, {"type": "signature_delta", "signature": uuid.uuid4().hex})
        yield event({"type": "content_block_stop", "index": block.index})


def _delta(block: Block, delta: Json) -> bytes:
    return event({"type": "content_block_delta", "index": block.index, "delta": delta})


def _content(block: Block, begun: bool = False) -> Json:
    if block.kind is Kind.TEXT:
        return {"type": "text", "text": block.text}
    if block.kind is Kind.THOUGHTS:
        return {"type": "thinking", "thinking": block.text} | (
            {} if begun else {"signature": uuid.uuid4().hex}
        )
    arguments = {} if begun else json.loads(block.text or "{}")
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": arguments}
