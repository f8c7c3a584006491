"""The requests of a log: bodies of the OpenAI API, bare or wrapped in a line of its own making."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import xxhash

WRAPPERS = ("request", "body", "request_body", "payload", "input", "params")
CONVERSATION_FIELDS = ("conversation_id", "session_id", "thread_id", "chat_id", "conversation", "session")
SYSTEM_ROLES = ("system", "developer")
MAX_MESSAGES = 10_000
MAX_DEPTH = 3
"""Wrappers inside each other."""
DECODER = msgspec.json.Decoder()


class BrokenLineError(Exception):
    """A line is no request; the message says why, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, its content as one text."""

    role: str
    text: str
    extra: str
    """Tool calls and what else belongs to it, as JSON; "" for none."""
    digest: int
    """64 bits: equal for equal messages."""
    body: Mapping[str, Any]
    """What the template gets besides role and content."""

    @property
    def is_system(self) -> bool:
        """Whether it instructs the model."""
        return self.role in SYSTEM_ROLES


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request as doctor sees it."""

    messages: tuple[Message, ...]
    """A text completion is one user message."""
    tools: tuple[Mapping[str, Any], ...]
    conversation: str
    """The conversation as the log names it; "" when it does not."""
    salt: str
    """Requests with different salts share no blocks."""
    is_chat: bool
    images: int
    """Parts that are no text; each is counted as a short marker."""


def parse(line: bytes) -> list[LoggedRequest]:
    """The requests of a line: one, or one for each prompt. Raises `BrokenLineError`."""
    try:
        value = DECODER.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BrokenLineError("no valid JSON") from error
    body, conversation = _unwrap(value)
    if "messages" in body:
        return [_chat(body, conversation)]
    prompts = body["prompt"]
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) for one in prompts):
        raise BrokenLineError("the prompt is no text")
    return [
        LoggedRequest(
            (message("user", prompt),), (), conversation, _text_of(body.get("cache_salt")), False, 0
        )
        for prompt in prompts
    ]


def message(role: str, text: str, body: Mapping[str, Any] | None = None) -> Message:
    """A message with its digest."""
    body = body or {}
    extra = json.dumps(body, separators=(",", ":")) if body else ""
    data = f"{role}\0{text}\0{extra}".encode("utf-8", "surrogatepass")
    return Message(role, text, extra, xxhash.xxh3_64_intdigest(data), body)


def _unwrap(value: Any) -> tuple[Mapping[str, Any], str]:
    conversation = ""
    for _ in range(MAX_DEPTH):
        if not isinstance(value, dict):
            raise BrokenLineError("no JSON object")
        conversation = conversation or _conversation_of(value)
        if "messages" in value or "prompt" in value:
            return value, conversation
        inner = next((value[name] for name in WRAPPERS if name in value), None)
        if isinstance(inner, str):
            try:
                inner = DECODER.decode(inner)
            except (msgspec.DecodeError, RecursionError) as error:
                raise BrokenLineError("the wrapped request is no valid JSON") from error
        value = inner
    raise BrokenLineError("neither messages nor a prompt")


def _conversation_of(value: Mapping[str, Any]) -> str:
    places = [value, value.get("metadata"), value.get("extra_body")]
    for place in places:
        for name in CONVERSATION_FIELDS:
            found = place.get(name) if isinstance(place, dict) else None
            if isinstance(found, dict):
                found = found.get("id")
            if isinstance(found, str | int) and found != "":
                return str(found)
    return ""


def _chat(body: Mapping[str, Any], conversation: str) -> LoggedRequest:
    given = body["messages"]
    if not isinstance(given, list) or not given:
        raise BrokenLineError("messages is no list, or empty")
    if len(given) > MAX_MESSAGES:
        raise BrokenLineError(f"more than {MAX_MESSAGES:,} messages")
    images, messages = 0, []
    for number, one in enumerate(given, start=1):
        if not isinstance(one, dict) or not isinstance(one.get("role"), str):
            raise BrokenLineError(f"message {number} has no role")
        text, skipped = _content(one.get("content"), number)
        images += skipped
        rest = {
            name: one[name]
            for name in ("tool_calls", "tool_call_id", "name", "reasoning")
            if one.get(name) is not None
        }
        messages.append(message(one["role"], text, rest))
    tools = body.get("tools") or ()
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, dict) for tool in tools):
        raise BrokenLineError("tools is no list of objects")
    salt = _text_of(body.get("cache_salt"))
    return LoggedRequest(tuple(messages), tuple(tools), conversation, salt, True, images)


def _content(content: Any, number: int) -> tuple[str, int]:
    """A message's text, and how many of its parts are no text."""
    if content is None:
        return "", 0
    if isinstance(content, str):
        return content, 0
    if not isinstance(content, Sequence):
        raise BrokenLineError(f"the content of message {number} is neither text nor parts")
    texts, skipped = [], 0
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            texts.append(text)
        else:
            skipped += 1
            digest = xxhash.xxh3_64_hexdigest(msgspec.json.encode(part))
            texts.append(f"[{part.get('type', 'part') if isinstance(part, dict) else 'part'} {digest}]")
    return "\n".join(texts), skipped


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""
