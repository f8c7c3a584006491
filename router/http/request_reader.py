"""Turns what a client sends into requests: uvicorn's way, bounded in bytes, in number and in work at a time.

A head must come within some seconds, a body at a lowest rate and within a time. Offers to change the protocol
are ignored. What cannot be taken for exactly one request is refused.
"""

from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.errors import ApiError, InvalidRequestError
from router.http.admission import Admission, Claim, Party
from router.http.client_request import IN_SCOPE, ClientRequest
from router.http.time_limits import NEVER, Watchdog

MAX_HEAD_BYTES = 64 * 1024
"""How much may come without becoming part of a body: headers, chunk extensions, trailers."""
MAX_HEADERS = 1024
MAX_PIPELINED = 16
"""Requests that are read ahead on one connection. Until then it is read on, so that its end is seen."""
SLICE_BYTES = 1024
"""Parsed at a time, which may be 40 requests; but the rest of a body of known length at once."""
MAX_SLICES = 32
"""Parsed before other connections have their turn: 32 KiB of one-byte chunks take 7 ms."""

HEAD_SECONDS = 10.0
"""From the opening of a connection, or the first byte of a later request, to the end of its headers."""
BODY_GRACE_SECONDS = 5.0
BODY_BYTES_PER_SECOND = 16 * 1024
"""What a body must have brought on average, once the grace is over."""

NO_HTTP = "Invalid HTTP request received."


class _RefusedError(Exception):
    """Ends the parser: the head of a request is not acceptable."""


@dataclass(slots=True, eq=False, repr=False)
class Arrival:
    """Watches what arrives on one connection; see `router.http.time_limits.Watched`.

    A whole request in one read sets no deadline: only what is unfinished after a read does.
    """

    flow: FlowControl
    loop: AbstractEventLoop
    body_seconds: float
    on_late: Callable[[], None]
    deadline: float = NEVER
    in_head: bool = False
    in_body: bool = False
    received: int = 0
    """Bytes of the body that arrives."""
    began: float = 0.0

    def head_begins(self) -> None:
        """The first byte of a request, or a connection that has none yet."""
        self.in_head = True
        self.deadline = NEVER

    def body_begins(self) -> None:
        """A head is complete."""
        self.in_head, self.in_body = False, True
        self.received = 0
        self.deadline = NEVER

    def ends(self) -> None:
        """Nothing is awaited until the next request begins."""
        self.in_head = self.in_body = False
        self.deadline = NEVER

    def idle(self, seconds: float) -> None:
        """Everything has its answer; unless something arrives already, wait so long for more."""
        if not (self.in_head or self.in_body):
            self.deadline = self.loop.time() + seconds

    def wait(self) -> None:
        """What is unfinished after a read must go on; repeating this changes nothing."""
        if self.deadline == NEVER:
            self._count_from_now()

    def _count_from_now(self) -> None:
        self.began = self.loop.time()
        if self.in_head:
            self.deadline = self.began + HEAD_SECONDS
        else:
            self.deadline = self._body_deadline()

    def _body_deadline(self) -> float:
        """Until when more of the body must have come."""
        seconds = BODY_GRACE_SECONDS + self.received / BODY_BYTES_PER_SECOND
        return self.began + min(self.body_seconds, seconds)

    def overdue(self) -> None:
        """Called by the watchdog. More of a body may have come since the deadline was set."""
        if self.flow.read_paused:  # a client cannot be late
            self._count_from_now()
            return
        if self.in_body:
            self.deadline = self._body_deadline()
            if self.deadline >= self.loop.time():
                return
        self.deadline = NEVER
        self.on_late()


@dataclass(slots=True)
class Bounds:
    """What all connections of a router share."""

    admission: Admission
    watchdog: Watchdog
    body_seconds: float
    """How long a request body may take to arrive."""
    stalled_seconds: float
    """How long a client may take nothing of an answer."""
    keep_alive: bool = True
    """Whether connections stay open for more requests: not once the router stops."""


class RequestReader(HttpToolsProtocol, ABC):
    """The reading half of a client's connection. The application gets each request from uvicorn."""

    def __init__(self, bounds: Bounds, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._address: Party
        self._arrival: Arrival
        self._unanswered: deque[ClientRequest] = deque()
        self._unread: bytes | memoryview = b""
        self._declared = 0
        """Length of the body that arrives, by its header; 0 where that does not say."""
        self._outside_body_bytes = 0
        self._refused = False

    @abstractmethod
    def _refuse(self, error: ApiError) -> None:
        """End the connection for what has come. Whole requests before it are still answered."""

    @abstractmethod
    def _after_parsing(self) -> None:
        """Something was parsed."""

    @property
    def bytes_ahead(self) -> int:
        """How much is held that belongs to no request yet."""
        return len(self._unread) + (self._outside_body_bytes if self._arrival.in_head else 0)

    def read_on(self) -> None:
        """Undo what long bodies and pipelined requests pause, else nobody would see the client leave."""
        if len(self.pipeline) < MAX_PIPELINED and not self._unread:
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._refused:
            return
        if self._unread:  # it will be parsed, see `_parse`
            self._unread = b"".join((self._unread, data))
            self.flow.pause_reading()
        else:
            self._unread = data
            self._parse()

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
        """The request is given to the application."""
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
        request = ClientRequest(self.cycle, claim, self._declared, self.read_on)
        self.scope[IN_SCOPE] = request  # type: ignore[literal-required]  # a key of our own
        self._unanswered.append(request)
        if not self._bounds.keep_alive:
            request.close_after()
        self.read_on()

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
