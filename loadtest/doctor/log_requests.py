"""A log, record by record (however long it is), and the requests in it."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from cluster.errors import ClusterError
from loadtest.doctor.log_formats import BrokenLineError, Found, Origin, Skipped, found_in
from loadtest.text_file import TextFormatError, json_records, open_lines

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer record is broken."""


class LogError(ClusterError):
    """The log cannot be read, or holds no request."""


def check_readable(path: str) -> int:
    """The size of a log. Raises `LogError`."""
    try:
        with Path(path).open("rb") as file:
            return file.seek(0, 2)
    except OSError as error:
        raise LogError(f"cannot read {path}: {error.strerror}") from error


class LogLines:
    """The records of one log."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        """Bytes on disk; 0 when that is not known."""
        self.bytes_read = 0
        """How many of the bytes on disk have been read."""
        self.text_bytes = 0
        """Bytes of text, after decompression."""
        self.cut_off = ""
        """Why reading stopped before the end of the log; "" when it did not."""
        if path != "-":
            self.size = check_readable(path)

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        """All records, each with the number of the line where it begins; None for one that is too long."""
        try:
            with open_lines(self.path) as (raw, lines):
                for number, record in json_records(lines, MAX_LINE_BYTES):
                    self.text_bytes += len(record or b"")
                    self.bytes_read = raw.tell() if raw is not None else self.text_bytes
                    yield number, record
        except (OSError, EOFError, zlib.error, TextFormatError) as error:
            if not self.text_bytes:
                raise LogError(f"cannot read {self.path}: {error}") from error
            self.cut_off = str(error)


SYSTEM_ROLES = ("system", "developer")
MAX_MESSAGES = 10_000
DECODER = msgspec.json.Decoder()


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
    time: str = ""
    """When it was sent, as a text that sorts; "" when the log does not say."""


def parse(record: bytes) -> list[LoggedRequest | Skipped]:
    """What is in a record: requests, and what is none. Raises `BrokenLineError`."""
    try:
        value = DECODER.decode(record)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BrokenLineError("no valid JSON") from error
    return [request for found in found_in(value) for request in _requests(found)]


def _requests(found: Found | Skipped) -> list[LoggedRequest | Skipped]:
    if isinstance(found, Skipped):
        return [found]
    body, salt = found.body, _text_of(found.body.get("cache_salt"))
    if "messages" in body:
        return [_chat(body, found.origin)]
    prompts = body["prompt"]
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) for one in prompts):
        raise BrokenLineError("the prompt is no text")
    return [
        LoggedRequest(
            (message("user", prompt),), (), found.origin.conversation, salt, False, 0, found.origin.time
        )
        for prompt in prompts
    ]


def message(role: str, text: str, body: Mapping[str, Any] | None = None) -> Message:
    """A message with its digest."""
    body = body or {}
    extra = json.dumps(body, separators=(",", ":")) if body else ""
    data = f"{role}\0{text}\0{extra}".encode("utf-8", "surrogatepass")
    return Message(role, text, extra, xxhash.xxh3_64_intdigest(data), body)


def _chat(body: Mapping[str, Any], origin: Origin) -> LoggedRequest:
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
    return LoggedRequest(tuple(messages), tuple(tools), origin.conversation, salt, True, images, origin.time)


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
