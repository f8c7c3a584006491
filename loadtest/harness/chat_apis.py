"""The same chat by one API or another: what is sent for it, and how its answer is read."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from loadtest.harness.chat_answers import (
    Choice,
    Chunk,
    Details,
    RequestFailedError,
    Text,
    Usage,
    decode_chunk,
)

Json: TypeAlias = dict[str, Any]


class ChatApi(NamedTuple):
    """One API."""

    path: str
    body: Callable[[Json], Json]
    """From a chat completion's."""
    chunk: Callable[[bytes], Chunk]
    """From an event's JSON, or a whole answer's. Raises `RequestFailedError`."""
    ends: Sequence[bytes]
    """One of these is in every stream that is complete."""


def message_body(chat: Json) -> Json:
    """As agents ask: breakpoints behind the system prompt and the last message."""
    messages: Sequence[Json] = chat["messages"]
    system = [message for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    body = {name: value for name, value in chat.items() if name not in ("messages", "stream_options", "user")}
    if "user" in chat:
        body["metadata"] = {"user_id": chat["user"]}
    if system:
        body["system"] = [_marked(message["content"]) for message in system]
    last = others[-1]
    body["messages"] = [*others[:-1], {"role": last["role"], "content": [_marked(last["content"])]}]
    return body


def response_body(chat: Json) -> Json:
    """With the whole history, which nobody keeps."""
    body = {name: value for name, value in chat.items() if name not in ("messages", "stream_options")}
    body["max_output_tokens"] = body.pop("max_tokens")
    return {**body, "input": chat["messages"], "store": False}


def message_chunk(data: bytes) -> Chunk:
    """Of Anthropic's API."""
    fields = _object(data)
    delta = fields.get("delta") or {}
    blocks = fields.get("content") or ()
    text = "".join([block.get("text") or "" for block in blocks]) or delta.get("text")
    usage = fields.get("usage") or (fields.get("message") or {}).get("usage")
    if usage is not None:
        found, added = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
        total = usage.get("input_tokens", 0) + (found or 0) + (added or 0)
        usage = Usage(total, usage.get("output_tokens"), Details(found))
    return Chunk([Choice(delta=Text(text, delta.get("thinking")))], usage)


def response_chunk(data: bytes) -> Chunk:
    """Of the Responses API."""
    fields = _object(data)
    response = fields.get("response") or fields
    text = None
    if fields.get("type") == "response.output_text.delta":
        text = fields["delta"]
    elif "output" in fields:
        parts = [part for item in fields["output"] for part in item.get("content") or ()]
        text = "".join([part["text"] for part in parts if part.get("type") == "output_text"])
    thoughts = fields["delta"] if fields.get("type") == "response.reasoning_text.delta" else None
    usage = response.get("usage")
    if usage is not None:
        cached = (usage.get("input_tokens_details") or {}).get("cached_tokens")
        usage = Usage(usage["input_tokens"], usage["output_tokens"], Details(cached))
    return Chunk([Choice(delta=Text(text, thoughts))], usage)


CHAT = ChatApi("/v1/chat/completions", lambda chat: chat, decode_chunk, (b"[DONE]",))
APIS: Mapping[str, ChatApi] = {
    "chat": CHAT,
    "messages": ChatApi("/v1/messages", message_body, message_chunk, (b"event: message_stop",)),
    "responses": ChatApi(
        "/v1/responses",
        response_body,
        response_chunk,
        (b"event: response.completed", b"event: response.incomplete"),
    ),
}


def _marked(text: str) -> Json:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


def _object(data: bytes) -> Json:
    """Raises `RequestFailedError` for an error, and for what is no object."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise RequestFailedError(f"not what the API promises: {error}") from error
    if fields.get("error") or fields.get("type") == "error":
        raise RequestFailedError(f"in the stream: {fields.get('error') or fields}")
    return fields
