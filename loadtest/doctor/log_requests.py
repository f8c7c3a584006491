"""A log, line by line (plain, gzipped or from standard input, however long it is), and the requests in it.

They are bodies of the OpenAI API, bare or wrapped in a line of its own making.
"""

import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import xxhash

from cluster.errors import ClusterError

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is broken."""
CHUNK_BYTES = 1024 * 1024


class LogError(ClusterError):
    """The log cannot be read, or holds no request."""


class LogLines:
    """The lines of one log."""

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
            try:
                self.size = Path(path).stat().st_size
            except OSError as error:
                raise LogError(f"cannot read {path}: {error.strerror}") from error

    def __iter__(self) -> Iterator[bytes | None]:
        """All lines without their ends; None for one that is too long."""
        try:
            with self._open() as (raw, stream):
                for line in _lines(stream):
                    self.text_bytes += len(line or b"")
                    self.bytes_read = raw.tell() if raw is not None else self.text_bytes
                    yield line
        except (OSError, EOFError, zlib.error) as error:
            if not self.text_bytes:
                raise LogError(f"cannot read {self.path}: {error}") from error
            self.cut_off = str(error)

    @contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO | None, BinaryIO]]:
        if self.path == "-":
            yield None, sys.stdin.buffer
            return
        with Path(self.path).open("rb") as raw:
            if raw.peek(2)[:2] != b"\x1f\x8b":
                yield raw, raw
                return
            with gzip.open(raw) as stream:
                yield raw, cast(BinaryIO, stream)


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line.strip()
            continue
        while (rest := stream.readline(CHUNK_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None


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
