"""Server-sent events: cutting a byte stream into whole events, and finding the usage in them."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""An event that grows beyond this is passed on in pieces instead of being held back."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding can raise for bytes that are not the JSON expected."""

_END = re.compile(rb"\r?\n\r?\n")
_COMMENT = re.compile(rb"(?::[^\r\n]*)?\r?\n")
DONE = b"data: [DONE]"
DONES = (DONE, b"data:[DONE]")
_DONE_LINE = re.compile(rb"(?:\A|\n)data: ?\[DONE\]")
ANNOUNCEMENTS = (b"event: response.created\n", b"event: response.in_progress\n")
"""Engines send these before they have begun to work on a request."""
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""What keeps nginx and its like from collecting a stream's events before they pass them on."""
_CHUNK_SIZES = [b"%x\r\n" % size for size in range(4096)]
"""How a chunk of so many bytes begins, as servers in Python write it."""


Count = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
"""Tokens. What counts otherwise is taken for no count: sums of it would fit into no message and no metric."""


class PromptTokensDetails(msgspec.Struct):
    """The part of a usage report that says what the engine had in its cache."""

    cached_tokens: Count | None = None


class Usage(msgspec.Struct):
    """Tokens of one request as the engine counted them."""

    prompt_tokens: Count = 0
    completion_tokens: Count | None = 0
    prompt_tokens_details: PromptTokensDetails | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens found in the engine's cache; None when the engine does not say."""
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None


class _Event(msgspec.Struct):
    choices: list[Any] | None = None
    usage: Usage | None = None
    error: Any = None


_event_decoder = msgspec.json.Decoder(_Event)


@dataclass(slots=True, eq=False, repr=False)
class EventFilter:
    """What a client gets of an engine's stream, and what the router reads in it."""

    keep_usage: bool
    usage: Usage | None = None
    done: bool = False
    """Whether the event that ends a stream has come."""
    reported_error: bool = False
    _rest: bytes = b""
    """What has not been a whole event so far."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return those that go on, in whole events."""
        if (
            not self._rest
            and data.endswith(b"\n\n")
            and b"\r" not in data
            and b'"error"' not in data
            and data.count(b'"usage"') == data.count(b'"usage":null')
        ):
            self.done = self.done or _is_done(data)
            return data
        return b"".join([event for event in self.split(data) if self._passes(event)])

    def passes_chunk(self, data: bytes) -> bool:
        """Whether this is one whole chunk in the frame of its transfer encoding, and passes as it is.

        False: `feed` has to see what is in it. `find`, since ``in`` costs three times as much for bytes.
        """
        if self._rest or not data.endswith(b"\n\n\r\n"):
            return False
        size = len(data) - data.find(b"\r", 1, 4) - len("\r\n\r\n")
        return (
            0 < size < len(_CHUNK_SIZES)
            and data.startswith(_CHUNK_SIZES[size])
            and data.find(b"[DONE]") < 0
            and data.find(b'"error"') < 0
            and (data.find(b'"usage"') < 0 or data.count(b'"usage"') == data.count(b'"usage":null'))
        )

    def split(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the events that are whole now, each with the empty line at its end."""
        data = self._rest + data
        events, start = [], 0
        for end in _END.finditer(data):
            events.append(data[start : end.end()])
            start = end.end()
        self._rest = data[start:]
        if len(self._rest) > MAX_EVENT_BYTES:
            events.append(self._rest)
            self._rest = b""
        return events

    def _passes(self, event: bytes) -> bool:
        usage, nothing_else = parse_usage(event)
        if usage is not None:
            self.usage = usage
            self.keep_usage |= not nothing_else  # in an event with text nobody asked for it: it is forced
        self.done = self.done or _is_done(event)
        self.reported_error = self.reported_error or error_status(event) is not None
        return self.keep_usage or not nothing_else


def parse_usage(event: bytes) -> tuple[Usage | None, bool]:
    """The usage in an event, and whether the event holds nothing else."""
    if b'"usage"' not in event or b'"usage":null' in event:
        return None, False
    parsed = _parse(event)
    if parsed is None or parsed.usage is None:
        return None, False
    return parsed.usage, not parsed.choices


def _is_done(data: bytes) -> bool:
    """Whether a line of these events ends a stream; inside JSON no line begins."""
    return b"[DONE]" in data and _DONE_LINE.search(data) is not None


def without_comments(data: bytes) -> bytes:
    """The beginning of a stream without the whole comments and empty lines that it begins with."""
    return data[_after_comments(data, 0) :]


def _after_comments(data: bytes, start: int) -> int:
    while line := _COMMENT.match(data, start):
        start = line.end()
    return start


def first_event(data: bytes) -> bytes | None:
    """The first event of a stream that begins with these bytes; None while it is not whole. Announcements and
    comments do not count.
    """
    start = _after_comments(data, 0)
    while end := _END.search(data, start):
        if not data.startswith(ANNOUNCEMENTS, start):
            return data[start : end.end()]
        start = _after_comments(data, end.end())
    return None


def error_status(event: bytes) -> int | None:
    """HTTP status of an event that reports an error; None for a piece of the answer."""
    if b'"error"' not in event:
        return None
    parsed = _parse(event)
    if parsed is None or parsed.error is None or parsed.choices:
        return None
    status = parsed.error.get("code") if isinstance(parsed.error, dict) else None
    return status if isinstance(status, int) and 400 <= status < 600 else 500


def usage_of_reply(body: bytes) -> Usage | None:
    """The usage in a reply that is not a stream; None when there is none."""
    try:
        return _event_decoder.decode(body).usage
    except UNREADABLE:
        return None


def _parse(event: bytes) -> _Event | None:
    _, found, data = event.partition(b"data:")
    try:
        return _event_decoder.decode(data) if found else None
    except UNREADABLE:
        return None
