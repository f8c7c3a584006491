"""One connection to an engine: HTTP/1.1 on httptools, without a task or a timer per request."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import httptools

from router.http.answer_ways import Sink
from router.http.time_limits import NEVER

NOT_PASSED = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"content-length", b"date", b"server", b"set-cookie"),
        b"x-request-id",
    }
)
"""Headers of answers that belong to the connection, or to the engine itself: clients get the router's own."""
CORS = b"access-control-"
"""Whom pages of other origins may ask is not for an engine to say."""
MAX_HEAD_BYTES = 64 * 1024
"""How much may come without becoming part of a body: headers, interim answers, chunk extensions, trailers."""


class Receiver(Protocol):
    """Takes one answer. After `finished`, `failed` or `overdue` nothing more comes."""

    def began(self, status: int, headers: dict[str, str]) -> None:
        """The headers are complete."""

    def received(self, data: bytes) -> None:
        """Some bytes of the body."""

    def finished(self) -> None:
        """The body was complete."""

    def failed(self, reason: str, *, unanswered: bool) -> None:
        """The answer broke off. ``unanswered``: a connection used before, and not one byte came."""

    def overdue(self) -> None:
        """The deadline has passed; the connection is cut."""


@dataclass(slots=True, eq=False, repr=False)  # slots: each object that a chunk touches can miss a cache
class EngineConnection(asyncio.Protocol):
    """Carries one request at a time."""

    on_free: Callable[["EngineConnection"], None]
    """Called when it can carry another one."""
    on_lost: Callable[["EngineConnection"], None]
    """Called when it has ended."""
    deadline: float = NEVER
    """See `router.http.time_limits.Watched`. Ends the wait of the receiver, or the connection's idling."""
    received_at: float = float("-inf")
    """When the engine sent its last bytes, in the event loop's time in seconds."""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _parser: httptools.HttpResponseParser = field(init=False)
    _transport: asyncio.Transport = field(init=False)
    _receiver: Receiver | None = None
    _used_before: bool = False
    _paused: bool = False
    _answered: bool = False
    _head_complete: bool = False
    _complete: bool = False
    _keep_alive: bool = False
    _has_length: bool = False
    _surplus: bool = False
    _chunk_complete: bool = False
    _between_chunks: bool = False
    _chunks_to: Sink | None = None
    _idle_seconds: float = 0.0
    _headers: dict[str, str] = field(default_factory=dict)
    _outside_body_bytes: int = 0
    _body: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)

    def _begin(self) -> None:
        self._answered = self._head_complete = self._complete = self._keep_alive = False
        self._has_length = self._surplus = self._chunk_complete = self._between_chunks = False
        self._chunks_to = None
        self._idle_seconds = 0.0
        self._outside_body_bytes = 0
        self._body = []

    def send(self, request: bytes, receiver: Receiver) -> None:
        """Send a request; the receiver gets the answer."""
        self._begin()
        self._receiver = receiver
        self._transport.write(request)

    def offer_chunks(self, sink: Sink, idle_seconds: float) -> None:
        """From now on let the sink see what is read between two chunks before the parser does.

        Each read moves the deadline.
        """
        self._chunks_to, self._idle_seconds = sink, idle_seconds

    def pause(self) -> None:
        """Stop reading from the engine until `resume`."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def abort(self) -> None:
        """Cut the connection at once; the receiver gets nothing more."""
        self._receiver = None
        self._transport.abort()

    def overdue(self) -> None:
        """Called by the watchdog: give up an answer that does not come, or a connection idle for too long."""
        receiver = self._receiver
        self.abort()
        if receiver is not None:
            receiver.overdue()

    @property
    def is_closing(self) -> bool:
        """Whether it can no longer be used."""
        return self._transport.is_closing()

    # ---- called by the transport ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for a request."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        """Hand on what the bytes contain of the body, in one piece."""
        self.received_at = now = self._loop.time()
        if self._between_chunks and self._chunks_to is not None:
            self.deadline = now + self._idle_seconds
            if self._chunks_to.took_chunk(data):
                return
        receiver = self._receiver
        if receiver is None:  # bytes that nobody asked for must not become the next request's answer
            self._transport.abort()
            return
        self._answered = True
        self._outside_body_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"malformed answer: {error}")
            return
        # Only the next chunk's size can follow a chunk, and `on_chunk_header` would have seen its end.
        self._between_chunks = self._chunk_complete and data.endswith(b"\r\n")
        if self._outside_body_bytes > MAX_HEAD_BYTES:
            self._fail(f"more than {MAX_HEAD_BYTES} bytes of headers")
            return
        if body := self._body:
            whole = body[0] if len(body) == 1 else b"".join(body)
            body.clear()
            receiver.received(whole)
        if self._complete and self._receiver is receiver:
            self._finish(receiver)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of the body, where nothing else marks it; else a failure."""
        if (receiver := self._receiver) is not None:
            if exc is None and self._head_complete and not self._has_length:
                self._receiver = None
                receiver.finished()
            else:
                self._fail(str(exc or "") or "the engine closed the connection")
        self.on_lost(self)

    def _finish(self, receiver: Receiver) -> None:
        self._receiver = None
        self._used_before = True
        self.resume()
        # An engine that answered before it had read the request may still be reading it.
        in_step = self._keep_alive and not self._surplus and not self._transport.get_write_buffer_size()
        if in_step and not self._transport.is_closing():
            self.on_free(self)
        else:
            self._transport.abort()
        receiver.finished()

    def _fail(self, reason: str) -> None:
        receiver = self._receiver
        self.abort()
        if receiver is not None:
            receiver.failed(reason, unanswered=self._used_before and not self._answered)

    # ---- called by the parser ----

    def on_message_begin(self) -> None:
        """The first byte of an answer, or of one too many."""
        self._surplus = self._complete
        self._headers = {"content-type": "application/json"}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Remember what clients get, and whether the end of the body is marked."""
        if self._head_complete:
            return  # a trailer
        name = name.lower()
        if name not in NOT_PASSED and not name.startswith(CORS):
            self._headers[name.decode("latin-1")] = value.decode("latin-1")
        elif name == b"content-length" or (
            name == b"transfer-encoding" and value.lower().endswith(b"chunked")
        ):
            self._has_length = True

    def on_headers_complete(self) -> None:
        """Begin the answer, unless it is an interim one."""
        status = self._parser.get_status_code()
        if status < 200 or self._surplus or self._receiver is None:
            return
        self._head_complete = True
        self._keep_alive = self._parser.should_keep_alive()
        self._outside_body_bytes = 0
        self._receiver.began(status, self._headers)

    def on_body(self, data: bytes) -> None:
        """Collect what one read contains."""
        self._outside_body_bytes = 0
        if not self._surplus:
            self._body.append(data)

    def on_chunk_header(self) -> None:
        """The size of a chunk has come."""
        self._chunk_complete = False

    def on_chunk_complete(self) -> None:
        """A whole chunk has come."""
        self._chunk_complete = True

    def on_message_complete(self) -> None:
        """The end of an answer, or of an interim one."""
        if self._head_complete:
            self._complete = True
            self._outside_body_bytes = 0
