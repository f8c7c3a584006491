"""Requests of the APIs that agents speak, which stand for chat completions: Messages and Responses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from cluster.apis.breakpoints import Breakpoint, breakpoints_of
from cluster.apis.messages import system_first
from cluster.prompts.tokenizer import PromptTokenizer
from router.errors import InvalidRequestError
from router.requests.lenient_json import nested_too_deeply
from router.requests.schema import (
    MESSAGES_PATH,
    OPENING,
    RESPONSES_PATH,
    Call,
    call_of,
    opening_of,
    read_object,
    shaped,
    unreadable,
)

Conversion: TypeAlias = Callable[[Mapping[str, Any]], dict[str, Any] | None]
"""From a body to that of the chat completion; None where only the engine can tell."""


def parse_as_chat(path: str, shape: Any, convert: Conversion, raw: bytes) -> Call:
    """Parse the body of such a request, by its own shape. Raises `InvalidRequestError` for what no engine may
    get."""
    body = read_object(raw)
    fields = body.fields
    if path == RESPONSES_PATH and fields.get("prompt") is not None:
        raise InvalidRequestError(
            "There are no reusable prompts here: see `warmroute prompts`.", param="prompt"
        )
    if shaped(body, shape) is None:
        return msgspec.structs.replace(unreadable(path, body), wants_usage=True)
    breakpoints: Sequence[Breakpoint] = ()
    if path == MESSAGES_PATH and b'"cache_control"' in raw:
        try:
            breakpoints = breakpoints_of(fields)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
    try:
        chat = convert(fields) or {}
        if messages := chat.get("messages"):
            conversation = opening_of(messages)
        else:
            given = fields.get("messages") or fields.get("input") or ""
            conversation = msgspec.json.encode(given[:OPENING] if isinstance(given, str) else given[:1])
    except RecursionError as error:
        raise nested_too_deeply() from error
    if "cache_salt" in fields:
        chat["cache_salt"] = fields["cache_salt"]
    tokenisable = bool(messages) and "chat_template" not in (chat.get("chat_template_kwargs") or ())
    call = call_of(path, body, conversation, tokenisable=tokenisable)
    fields = chat if messages else fields
    return msgspec.structs.replace(call, wants_usage=True, fields=fields, breakpoints=breakpoints)


def fitted(call: Call, tokenizer: PromptTokenizer) -> Call:
    """A call of the Messages API as an engine renders it with this tokenizer's template."""
    if not call.tokenisable:
        return call
    chat: dict[str, Any] = dict(call.fields)
    if any(message["role"] == "system" for message in chat["messages"][1:]) and tokenizer.merges_system:
        chat = system_first(chat)
    if chat.get("reasoning_effort") == "none":
        chat["reasoning_effort"] = tokenizer.effort_without_thinking
    return msgspec.structs.replace(call, fields=chat)


def chat_body(call: Call) -> bytes:
    """The chat completion that a call stands for, for an engine that knows nothing else. Raises
    `InvalidRequestError` where it stands for none that is known here.
    """
    if not call.tokenisable:
        raise InvalidRequestError(
            f"The engine does not serve {call.path}, and this request has no other form."
        )
    chat = {**call.fields, "model": call.model}
    if call.stream:
        chat["stream_options"] = {"include_usage": True}
    if call.cache_salt:
        chat["cache_salt"] = call.cache_salt
    return msgspec.json.encode(chat)
