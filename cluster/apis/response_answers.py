"""Answers of OpenAI's Responses API, whole and streamed, made of those of chat completions.

In vLLM's words (0.32, `vllm/entrypoints/openai/responses`): what a client has asked for is repeated in the
response, and events are numbered.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.apis.answer_blocks import Block, BlockStream, Json, Kind, Part, Step, blocks_of, event
from cluster.apis.responses import CUSTOM_INPUT, SEPARATOR

REPEATED: Json = {
    "instructions": None, "metadata": None, "parallel_tool_calls": True, "temperature": 1.0,
    "tool_choice": "auto", "tools": [], "top_p": 1.0, "background": False, "max_output_tokens": None,
    "max_tool_calls": None, "previous_response_id": None, "prompt": None, "reasoning": None,
    "service_tier": "auto", "text": None, "top_logprobs": None, "truncation": "disabled", "user": None,
}  # fmt: skip
"""Fields of a request that its response has, too, and what they are where the request leaves them out."""
PREFIXES = {Kind.THOUGHTS: "rs_", Kind.TEXT: "msg_", Kind.CALL: "fc_"}
DELTAS = {
    Kind.THOUGHTS: "response.reasoning_text.delta",
    Kind.TEXT: "response.output_text.delta",
    Kind.CALL: "response.function_call_arguments.delta",
}


class ResponseMaker:
    """Makes the response to one request, given its body."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._head: Json = {
            "id": request.get("request_id") or f"resp_{uuid.uuid4().hex}",
            "created_at": int(time.time()),
            "incomplete_details": None,
            "model": request.get("model"),
            "object": "response",
            "usage": None,
        }
        for name, default in REPEATED.items():
            given = request.get(name)
            self._head[name] = default if given is None else given
        tools: Sequence[Json] = request.get("tools") or ()
        self._custom = {tool.get("name") for tool in tools if tool.get("type") == "custom"}
        self._spaces = {
            f"{tool.get('name')}{SEPARATOR}{inner.get('name')}": (tool.get("name"), inner.get("name"))
            for tool in tools
            if tool.get("type") == "namespace"
            for inner in tool.get("tools") or ()
        }
        self._stream = BlockStream()
        self._ids: dict[int, str] = {}
        self._number = 0

    def begun(self) -> Json:
        """The response before there is anything in it."""
        return {**self._head, "status": "in_progress", "output": []}

    def whole(self, answer: Mapping[str, Any]) -> Json:
        """The response to which an answer that is not streamed becomes."""
        choice = answer["choices"][0]
        items = [self._item(block) for block in blocks_of(choice["message"])]
        self._head["model"] = answer.get("model") or self._head["model"]
        return self._response(items, choice.get("finish_reason"), answer.get("usage"))

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """The events that one chunk becomes."""
        if not self._number:
            self._head["model"] = chunk.get("model") or self._head["model"]
            yield self._event("response.created", response=self.begun())
            yield self._event("response.in_progress", response=self.begun())
        for step in self._stream.feed(chunk):
            yield from self._events(step)

    def close(self) -> Iterator[bytes]:
        """The events at the end."""
        stream = self._stream
        for step in stream.close():
            yield from self._events(step)
        items = [self._item(block) for block in stream.blocks]
        response = self._response(items, stream.finish_reason, stream.usage)
        yield self._event("response.completed", response=response)

    def _response(
        self, items: list[Json], finish_reason: str | None, usage: Mapping[str, Any] | None
    ) -> Json:
        cut = finish_reason == "length"
        return {
            **self._head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": items,
            "usage": response_usage(usage) if usage else None,
        }

    def _item(self, block: Block, begun: bool = False) -> Json:
        """A block as an item of the output."""
        item_id = self._ids.setdefault(block.index, PREFIXES[block.kind] + uuid.uuid4().hex)
        status = "in_progress" if begun else "completed"
        if block.kind is Kind.THOUGHTS:
            content = [] if begun else [{"type": "reasoning_text", "text": block.text}]
            return {
                "id": item_id,
                "type": "reasoning",
                "summary": [],
                "content": content,
                "encrypted_content": None,
                "status": status,
            }
        if block.kind is Kind.TEXT:
            text = {"type": "output_text", "text": block.text, "annotations": [], "logprobs": []}
            about = {"id": item_id, "type": "message", "role": "assistant", "status": status}
            return {**about, "content": [] if begun else [text]}
        call: Json = {"id": item_id, "call_id": block.id, "name": block.name, "status": status}
        if block.name in self._custom:
            return {**call, "type": "custom_tool_call", "input": "" if begun else _custom_input(block.text)}
        if block.name in self._spaces:
            call["namespace"], call["name"] = self._spaces[block.name]
        return {**call, "type": "function_call", "arguments": block.text}

    def _events(self, step: Step) -> Iterator[bytes]:
        block = step.block
        item = self._item(block, begun=step.part is not Part.ENDED)
        place: Json = {"output_index": block.index, "item_id": item["id"]}
        if block.kind is not Kind.CALL:
            place["content_index"] = 0
        custom = item["type"] == "custom_tool_call"
        more: Json = {"logprobs": []} if block.kind is Kind.TEXT else {}
        if step.part is Part.BEGUN:
            yield self._event("response.output_item.added", output_index=block.index, item=item)
            if block.kind is not Kind.CALL:
                yield self._event("response.content_part.added", **place, part=_part(block, ""))
        elif step.part is Part.ADDED:
            if not custom:  # its input is known when its arguments are complete
                yield self._event(DELTAS[block.kind], **place, delta=step.text, **more)
        else:
            if custom:
                done = {"input": item["input"]}
                yield self._event("response.custom_tool_call_input.delta", **place, delta=item["input"])
                yield self._event("response.custom_tool_call_input.done", **place, **done)
            elif block.kind is Kind.CALL:
                done = {"arguments": block.text, "name": item["name"]}
                yield self._event("response.function_call_arguments.done", **place, **done)
            else:
                kind = DELTAS[block.kind].removesuffix("delta") + "done"
                yield self._event(kind, **place, text=block.text, **more)
                yield self._event("response.content_part.done", **place, part=_part(block, block.text))
            yield self._event("response.output_item.done", output_index=block.index, item=item)

    def _event(self, kind: str, **data: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1, **data})


def response_usage(usage: Mapping[str, Any]) -> Json:
    """Counts of tokens; what an engine does not count is left out."""
    details = usage.get("prompt_tokens_details") or {}
    names = {"cached_tokens": "cached_tokens", "created_cache_tokens": "cache_write_tokens"}
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            ours: details[name] for name, ours in names.items() if details.get(name) is not None
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }


def _part(block: Block, text: str) -> Json:
    if block.kind is Kind.THOUGHTS:
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _custom_input(arguments: str) -> str:
    """What a model has given to a custom tool; text that is no JSON as it is."""
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return arguments
    given = parsed.get(CUSTOM_INPUT) if isinstance(parsed, dict) else None
    return given if isinstance(given, str) else arguments
