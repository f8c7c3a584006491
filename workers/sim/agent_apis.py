"""The other APIs of chats at a simulated engine, tools called by a script, and answers in a schema.

As in vLLM a request becomes the chat completion that it stands for, and that one's answer is translated back.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from cluster.apis.answer_blocks import Maker
from cluster.apis.message_answers import MessageMaker
from cluster.apis.messages import MessagesShape, chat_of_messages, system_first
from cluster.apis.response_answers import ResponseMaker
from cluster.apis.responses import ResponsesShape, chat_of_response
from cluster.prompts.tokenizer import PromptTokenizer
from workers.sim.schema import ApiError, Generation, Json

MAX_DEPTH = 8
MAX_NODES = 500
"""Of an answer in a schema."""
SIMPLEST = {"string": "the", "integer": 1, "number": 1.5, "boolean": True, "null": None}
NEEDS_A_STORE = ("previous_response_id", "background")
"""Fields of a Responses request with which vLLM wants to keep responses, which it does not by itself."""


class Translation(NamedTuple):
    """The chat completion that a request stands for, and what makes its answer."""

    chat: Json
    maker: Maker


def message_translation(body: Json, tokenizer: PromptTokenizer) -> Translation:
    """Of a Messages request. Raises `ApiError`."""
    chat = _translated(body, MessagesShape, chat_of_messages)
    if tokenizer.merges_system and chat["messages"]:
        chat = system_first(chat)
    if chat.get("reasoning_effort") == "none":
        chat["reasoning_effort"] = tokenizer.effort_without_thinking
    return Translation(chat, MessageMaker())


def response_translation(body: Json, tokenizer: PromptTokenizer) -> Translation:
    """Of a Responses request. Raises `ApiError`."""
    for name in NEEDS_A_STORE:
        if body.get(name):
            raise ApiError(f"{name} needs a store", name, 404 if name == "previous_response_id" else 400)
    return Translation(_translated(body, ResponsesShape, chat_of_response), ResponseMaker(body))


def scripted(
    generation: Generation,
    chat: Mapping[str, Any],
    tokenizer: PromptTokenizer,
    script: Sequence[Json],
    answer_tokens: int,
) -> Generation:
    """The same, but no longer than answers may be, in the form that the request prescribes, or the next call
    that the script has for a request with this tool. Raises `ApiError`.
    """
    unlimited = chat.get("max_tokens") is None and chat.get("max_completion_tokens") is None
    answer = _prescribed_answer(chat)
    if answer is not None:
        needed = len(tokenizer.completion(answer, add_special_tokens=False).token_ids)
        generation = dataclasses.replace(generation, answer=answer)
        if unlimited or needed <= generation.max_tokens:
            generation = dataclasses.replace(generation, max_tokens=needed, finish_reason="stop")
    elif answer_tokens and (unlimited or answer_tokens < generation.max_tokens):
        generation = dataclasses.replace(generation, max_tokens=answer_tokens, finish_reason="stop")
    offered = {tool.get("function", {}).get("name") for tool in chat.get("tools") or ()}
    done = sum(bool(message.get("tool_calls")) for message in chat["messages"])
    if done >= len(script) or script[done]["name"] not in offered:
        return generation
    call, number = script[done], f"call_{done}"
    function = {"name": call["name"], "arguments": msgspec.json.encode(call["arguments"]).decode()}
    call = {"id": number, "type": "function", "function": function}
    return dataclasses.replace(generation, call=call, finish_reason="tool_calls")


def _prescribed_answer(chat: Mapping[str, Any]) -> str | None:
    """The simplest JSON that the response format allows, None where it is free. Raises `ApiError`."""
    wanted = chat.get("response_format")
    if not isinstance(wanted, dict) or wanted.get("type") not in ("json_object", "json_schema"):
        return None
    described = wanted.get("json_schema")
    try:
        return _simplest_json(described.get("schema") if isinstance(described, dict) else None)
    except ValueError as error:
        raise ApiError(str(error), "response_format") from error


def _simplest_json(schema: Any) -> str:
    """Raises `ValueError` for a schema that is none, or too large."""
    nodes = 0

    def simplest(part: Any, depth: int) -> Any:
        nonlocal nodes
        nodes += 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise ValueError("the schema is too large, or refers to itself")
        if "$ref" in part:
            found: Any = schema
            for name in part["$ref"].split("/")[1:]:
                found = found[name]
            return simplest(found, depth + 1)
        if "const" in part or part.get("enum"):
            return part["const"] if "const" in part else part["enum"][0]
        if options := part.get("anyOf") or part.get("oneOf") or part.get("allOf"):
            return simplest(options[0], depth + 1)
        kind = part.get("type", "object")
        if kind == "array":
            return [simplest(part.get("items", {}), depth + 1)]
        if kind != "object":
            return SIMPLEST[kind if isinstance(kind, str) else kind[0]]
        return {name: simplest(one, depth + 1) for name, one in part.get("properties", {}).items()}

    try:
        return json.dumps(simplest(schema or {}, 0))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("this is no JSON schema") from error


def _translated(body: Json, shape: Any, convert: Any) -> Json:
    try:
        msgspec.convert(body, shape)
    except msgspec.ValidationError as error:
        raise ApiError(str(error)) from error
    chat: Json | None = convert(body)
    if chat is None:
        raise ApiError("a simulated engine does not know all that this request holds")
    if chat.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    return chat
