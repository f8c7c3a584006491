"""Streams of other paths than chat and text completions: nothing in them is changed, and only where they
end, what they count and which errors they report is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from cluster.apis.answer_blocks import Maker
from router.errors import ApiError, anthropic_body
from router.http.sse import (
    DONE,
    DONES,
    UNREADABLE,
    Count,
    EventFilter,
    PromptTokensDetails,
    Usage,
    error_status,
    parse_usage,
)

ERROR_EVENT = b"event: error\n"

NO_ANSWER = (*UNREADABLE, AttributeError, LookupError, TypeError, ValueError)
"""What reading a chat completion can raise that is none."""

UsageReader: TypeAlias = Callable[[bytes], Usage | None]
"""Finds the usage in a whole answer, or in the data of one event."""


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """How a stream says that it is complete, and that it is not."""

    ends: tuple[bytes, ...]
    """What the last event of a stream begins with."""

    def broken_off(self, error: ApiError) -> bytes:
        """What a client gets instead of the rest, so that it cannot take what it has for the whole."""
        if DONE in self.ends:
            return b"data: " + msgspec.json.encode(error.body()) + b"\n\n" + DONE + b"\n\n"
        # Anthropic's clients look into "error", OpenAI's for responses beside it.
        data = {"code": error.code, "message": error.message, "param": None}
        data |= anthropic_body(error.status, error.body())
        return ERROR_EVENT + b"data: " + msgspec.json.encode(data) + b"\n\n"


CHUNKS = StreamFormat(ends=DONES)
RESPONSE = StreamFormat(
    ends=(b"event: response.completed\n", b"event: response.incomplete\n", b"event: response.failed\n")
)
MESSAGE = StreamFormat(ends=(b"event: message_stop\n",))


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class PassedEvents(EventFilter):
    """Passes on every event as it is. After an error no other end is awaited."""

    keep_usage: bool = True
    ends: tuple[bytes, ...]
    read_usage: UsageReader | None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return those that go on, in whole events."""
        events = self.split(data)
        for event in events:
            self._read(event)
        return b"".join(events)

    def passes_chunk(self, data: bytes) -> bool:
        """Never: `feed` sees everything."""
        return False

    def _read(self, event: bytes) -> None:
        if event.startswith(ERROR_EVENT) or error_status(event) is not None:
            self.reported_error = True
        if self.reported_error or event.startswith(self.ends):
            self.done = True
        if self.read_usage is not None and b'"usage"' in event:
            self.usage = self.read_usage(event.partition(b"data:")[2]) or self.usage


class _InputUsage(msgspec.Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_tokens_details: PromptTokensDetails | None = None
    """In a response."""
    cache_read_input_tokens: Count | None = None
    """In a message: tokens that `input_tokens` leaves out, like those below."""
    cache_creation_input_tokens: Count | None = None


class _InputCounted(msgspec.Struct):
    usage: _InputUsage | None = None
    response: "_InputCounted | None" = None
    """In the last event of a response's stream."""


_input_decoder = msgspec.json.Decoder(_InputCounted)


def usage_of_input(body: bytes) -> Usage | None:
    """The usage as responses and messages write it; None when there is none."""
    try:
        counted = _input_decoder.decode(body)
    except UNREADABLE:
        return None
    usage = counted.usage or (counted.response.usage if counted.response else None)
    if usage is None or usage.input_tokens is None:
        return None
    cached = usage.cache_read_input_tokens
    details = usage.input_tokens_details if cached is None else PromptTokensDetails(cached)
    apart = (cached or 0) + (usage.cache_creation_input_tokens or 0)
    return Usage(usage.input_tokens + apart, usage.output_tokens, details)


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class TranslatedEvents(EventFilter):
    """Makes another API's events of a chat completion's, and gives them to what reads these."""

    keep_usage: bool = True
    maker: Maker
    reader: EventFilter

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return those that go on, in whole events."""
        made: list[bytes] = []
        for event in self.split(data):
            self.usage = parse_usage(event)[0] or self.usage
            _, found, content = event.partition(b"data:")
            if event.startswith(DONES):
                made += self.maker.close()
            elif error_status(event) is not None:
                made.append(ERROR_EVENT + b'data: {"type":"error",' + content.strip()[1:] + b"\n\n")
            elif found:
                try:
                    made += self.maker.feed(msgspec.json.decode(content))
                except NO_ANSWER:
                    made.append(ERROR_EVENT + b'data: {"type":"error","error":{"message":"no answer"}}\n\n')
        passed = self.reader.feed(b"".join(made))
        self.reader.usage = self.usage  # as the engine counted, with nothing that it did not count
        return passed

    def passes_chunk(self, data: bytes) -> bool:
        """Never: `feed` sees everything."""
        return False
