"""One connection of a client: uvicorn's own, with a direct way for answers and bounds on what a client sends.

Bounds are on bytes that are no body, on time, on requests that are read ahead, and on how much of one read is
parsed before others have their turn.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.admission import Admission, Claim, network_of
from router.arrival import HEAD_SECONDS, Arrival, too_slow
from router.connection_limit import ConnectionLimit, Entry
from router.direct_reply import EXTENSION, DirectReply, raw_answer
from router.errors import ApiError, InvalidRequestError, RequestTooSlowError, TooManyConnectionsError
from router.watchdog import NEVER, Watchdog

MAX_HEAD_BYTES = 64 * 1024
"""How much may come without becoming part of a body: headers, chunk extensions, trailers."""
MAX_HEADERS = 1024
MAX_PIPELINED = 16
"""Requests that are read ahead on one connection. Until then it is read on, so that its end is seen."""
SLICE_BYTES = 4096
"""Parsed at a time where it may be anything; the rest of a body of known length is parsed at once."""
MAX_SLICES = 8
"""Parsed before other connections have their turn: 32 KiB of one-byte chunks take 7 ms."""
CLOSING_SECONDS = 30.0
"""How long the end of an answer may wait for a client, once the connection is to be closed."""

NO_HTTP = "Invalid HTTP request received."


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all connections of a router share."""

    admission: Admission
    connections: ConnectionLimit
    watchdog: Watchdog
    body_seconds: float
    """How long a request body may take to arrive."""
    stalled_seconds: float
    """How long a client may take nothing of an answer."""


class _RefusedError(Exception):
    """Ends the parser: the head of a request is not acceptable."""


class ClientConnection(HttpToolsProtocol):
    """uvicorn's connection for HTTP/1.1. It parses, keeps alive, and answers pipelined requests in turn."""

    def __init__(self, bounds: Bounds, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deadline = NEVER
        """Until when the client must take something of its answers; see `router.watchdog.Watched`."""
        self._bounds = bounds
        self._arrival = Arrival(self, self.loop, bounds.body_seconds)
        self._unread: bytes | memoryview = b""
        self._declared = 0
        self._outside_body_bytes = 0
        self._refused = False
        self._unanswered: deque[DirectReply] = deque()
        self._address = ""
        self._entry: Entry | None = None

    @property
    def reading_is_paused(self) -> bool:
        """Whether nothing is read, so that a client cannot be late."""
        return self.flow.read_paused

    def read_on(self) -> None:
        """Undo what long bodies and pipelined requests pause, else nobody would see the client leave."""
        if len(self.pipeline) < MAX_PIPELINED and not self._unread:
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """The first of its open requests has its answer."""
        reply = self._unanswered.popleft()
        reply.answered()
        if reply.expects_continue and self.cycle.more_body and not self._arrival.received:
            self.transport.close()  # the body will not come, and what comes next would be taken for it
        super().on_response_complete()
        if self.transport.is_closing():
            self._wait_for_client(CLOSING_SECONDS)
        elif self._unread:
            self._parse()
        else:
            self._note_state()

    def timeout_keep_alive_handler(self) -> None:
        """It has been idle for long."""
        self._close()

    def shutdown(self) -> None:
        """The server stops."""
        super().shutdown()
        for reply in self._unanswered:
            if reply.on_shutdown is not None:
                reply.on_shutdown()

    # ---- called by the transport ----

    def connection_made(self, transport: Any) -> None:
        """Wait for a request, if there is room for one more connection."""
        super().connection_made(transport)
        self._address = network_of(self.client[0]) if self.client is not None else ""
        self._entry = self._bounds.connections.enter(self, self._address)
        if self._entry is None:
            self._refuse(TooManyConnectionsError("This router has as many connections as it may."))
            return
        self._arrival.head_begins()
        self._arrival.wait()
        self._bounds.watchdog.add(self._arrival)
        self._note_state()

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        if self._unread:  # it will be parsed, see `_parse`
            self._unread = b"".join((self._unread, data))
            self.flow.pause_reading()
        else:
            self._unread = data
            self._parse()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request that waits for its answer; uvicorn tells only the one that came last."""
        super().connection_lost(exc)
        self._leave()
        self._bounds.watchdog.discard(self)
        self._unread = b""
        for reply in self._unanswered:
            reply.client_left()
        self._unanswered.clear()

    def pause_writing(self) -> None:
        """More waits for the client than should."""
        super().pause_writing()
        self._wait_for_client(self._bounds.stalled_seconds)
        if self._unanswered and (on_full := self._unanswered[0].on_full) is not None:
            on_full()

    def resume_writing(self) -> None:
        """The client takes data again."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._bounds.watchdog.discard(self)
        if self._unanswered and (on_resumed := self._unanswered[0].on_resumed) is not None:
            on_resumed()

    # ---- bounds ----

    def _close(self) -> None:
        self.transport.close()
        self._wait_for_client(CLOSING_SECONDS)

    def _wait_for_client(self, seconds: float) -> None:
        self.deadline = self.loop.time() + seconds
        self._bounds.watchdog.add(self)

    def overdue(self) -> None:
        """Called by the watchdog: the client has not taken anything for too long."""
        self._bounds.watchdog.discard(self)
        if self._unanswered:
            self._unanswered[0].client_stalled()
        self.transport.abort()

    def request_is_late(self) -> None:
        """What has begun to arrive has taken too long: 408, where there is still something to answer."""
        if self._arrival.in_head:
            if self._unanswered or self._outside_body_bytes:
                self._refuse(RequestTooSlowError(f"No whole request within {HEAD_SECONDS:g} s."))
            else:
                self._close()
        elif self.cycle.response_complete:
            self._close()
        else:
            self._unanswered[-1].close_after()
            self._unanswered[-1].refuse_body(too_slow(self._bounds.body_seconds))

    def evict(self) -> None:
        """End at once: another connection needs the room."""
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        """Count no more."""
        if self._entry is not None:
            self._bounds.connections.leave(self._entry)
            self._bounds.watchdog.discard(self._arrival)
            self._entry = None

    def _note_state(self) -> None:
        """Whether this connection may be given up for another one has changed, perhaps."""
        arrival, entry = self._arrival, self._entry
        if entry is None:
            return
        if self._unanswered and not (arrival.in_body and len(self._unanswered) == 1):
            entry.is_answered()
        elif arrival.in_head or arrival.in_body:
            entry.is_arriving()
        else:
            entry.is_idle()

    # ---- parsing ----

    def _parse(self) -> None:
        """Parse what has been read, as far as it may be for now."""
        for _ in range(MAX_SLICES):
            if len(self.pipeline) >= MAX_PIPELINED:
                self.flow.pause_reading()  # goes on with the next answer
                break
            self._parse_slice(self._next_slice())
            if self._refused or self.transport.is_closing():
                self._unread = b""
                return
            if not self._unread:
                break
        else:
            self.flow.pause_reading()
            self.loop.call_soon(self._parse_on)
        self._after_parsing()

    def _next_slice(self) -> bytes | memoryview:
        data = self._unread
        if len(data) <= SLICE_BYTES:
            self._unread = b""
            return data
        arrival, view = self._arrival, memoryview(data)
        rest_of_body = self._declared - arrival.received if arrival.in_body else 0
        size = max(SLICE_BYTES, rest_of_body)
        self._unread = view[size:]
        return view[:size]

    def _parse_on(self) -> None:
        if self._unread and not self.transport.is_closing():
            self._parse()
            self.read_on()

    def _parse_slice(self, data: bytes | memoryview) -> None:
        self._outside_body_bytes += len(data)
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    data = memoryview(data)[upgrade.args[0] :]
                    self._read_without_upgrade()
        except httptools.HttpParserError as error:
            reason = error.__context__
            self._refuse(InvalidRequestError(str(reason) if isinstance(reason, _RefusedError) else NO_HTTP))
            return
        if self._outside_body_bytes > MAX_HEAD_BYTES or len(self.headers or ()) > MAX_HEADERS:
            self._refuse(
                InvalidRequestError(f"More than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} lines of headers.")
            )

    def _after_parsing(self) -> None:
        arrival = self._arrival
        if not (arrival.in_head or arrival.in_body or self._unanswered):
            arrival.head_begins()  # bytes between requests, and nothing else would end the wait
        if arrival.in_head or arrival.in_body:
            arrival.wait()
        self._note_state()

    def _read_without_upgrade(self) -> None:
        """Read the last head again without its offer to change the protocol.

        The parser takes what follows an offer for the other protocol. We accept none, so it is the body.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        lines = [b"%b %b HTTP/%b\r\n" % (method, self.url, version.encode())]
        lines += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"".join(lines) + b"\r\n")

    def _refuse(self, error: ApiError) -> None:
        """End the connection for what has come. Whole requests before it are still answered."""
        self._refused = True
        self._arrival.ends()
        if self._unanswered and self.cycle.more_body:  # the body of the last one is what is wrong
            if len(self._unanswered) == 1 and self.cycle.response_started:
                self._close()
                return
            if len(self._unanswered) > 1:
                self._unanswered.pop()
                self.pipeline.popleft()
                self._unanswered[-1].close_after()
                return
        elif self._unanswered:
            self._unanswered[-1].close_after()
            return
        self.transport.write(raw_answer(error, self.server_state.default_headers))
        self._close()

    # ---- called by the parser ----

    def on_message_begin(self) -> None:
        """A request begins."""
        self._arrival.head_begins()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are dropped, they could pretend to be one."""
        if self._arrival.in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is given to the application, with the direct way for its answer."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _RefusedError("This is no proxy.")
            return  # read again, see `_read_without_upgrade`
        hosts = self._declared = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                self._declared = int(value)
        if hosts != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            raise _RefusedError("A request needs one Host header.")
        self._arrival.body_begins()
        self._outside_body_bytes = 0
        super().on_headers_complete()
        claim = Claim(self._bounds.admission, self._address)
        reply = DirectReply(self, self.cycle, claim, self._declared)
        self._unanswered.append(reply)
        self.read_on()
        self.scope["extensions"] = {EXTENSION: {"reply": reply}}

    def on_body(self, body: bytes) -> None:
        """Some bytes of a body."""
        self._outside_body_bytes = 0
        self._arrival.received += len(body)
        if not self.cycle.response_complete and self._unanswered[-1].take_part(body):
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self.parser.should_upgrade():
            return
        self._outside_body_bytes = 0
        self._arrival.ends()
        super().on_message_complete()
