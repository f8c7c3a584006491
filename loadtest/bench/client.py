"""The load generator: HTTP/1.1 on bare protocols, so that it costs little beside what is measured."""

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import cast

import httptools

SENT = re.compile(rb"t=(\d{20})")
"""When an engine sent a chunk: nanoseconds of the machine's monotonic clock."""
ERROR_BYTES = 300
CHAT = "/v1/chat/completions"


class RequestFailedError(Exception):
    """A request was not answered with 200, or not to its end."""


def head_of(host: bytes, length: int, path: str = CHAT) -> bytes:
    """Request line and headers of a request with a body of that many bytes."""
    head = b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\n"
    return head % (path.encode(), host) + b"content-length: %d\r\n\r\n" % length


@dataclass(slots=True)
class Reply:
    """One answer as its client saw it."""

    sent: float
    """`time.monotonic` in seconds, as all times here."""
    first_byte: float = 0.0
    """When the first byte of the body came."""
    chunks: int = 0
    delays: list[tuple[float, float]] = field(default_factory=list)
    """When each chunk came, and how many seconds after its engine had sent it."""
    headers: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def ttft(self) -> float:
        """Seconds to the first byte of the body."""
        return self.first_byte - self.sent


class Connection(asyncio.Protocol):
    """One kept-alive connection; one request at a time."""

    def __init__(self, host: str) -> None:
        self._host = host.encode()
        self._waiter: asyncio.Future[None] | None = None
        self._error = self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""

        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """A request under way has failed."""
        self._fail(f"the connection was closed: {exc}")

    async def request(self, body: bytes, path: str) -> Reply:
        """Send a request and wait for the end of its answer. Raises `RequestFailedError`."""
        self._parser = httptools.HttpResponseParser(self)
        self._reply, self._error, self._rest = Reply(time.monotonic()), b"", b""
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(head_of(self._host, len(body), path) + body)
        await self._waiter
        return self._reply

    def close(self) -> None:
        """Disconnect."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"unreadable answer: {error}")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._reply.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        reply, now = self._reply, time.monotonic()
        if not reply.first_byte:
            reply.first_byte = now
            if self._parser.get_status_code() != 200:
                self._error = body[:ERROR_BYTES]
        events = self._rest + body
        end = events.rfind(b"\n\n") + 1  # a chunk can come in two pieces
        self._rest = events[end:]
        for sent in SENT.findall(events, 0, end):
            reply.chunks += 1
            reply.delays.append((now, now - int(sent) / 1e9))

    def on_message_complete(self) -> None:
        """The answer is complete."""
        status = self._parser.get_status_code()
        if status != 200:
            self._fail(f"{status} {self._error.decode(errors='replace')}")
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(RequestFailedError(reason))


class Client:
    """Connections to one server, opened when they are needed and used again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[Connection] = []
        self._all: list[Connection] = []

    async def request(self, body: bytes, path: str = CHAT) -> Reply:
        """Send a request on an idle connection, or on a new one. Raises `RequestFailedError`."""
        connection = self._idle.pop() if self._idle else await self._connect()
        reply = await connection.request(body, path)
        self._idle.append(connection)
        return reply

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all:
            connection.close()
        self._idle, self._all = [], []

    async def _connect(self) -> Connection:
        address = f"127.0.0.1:{self.port}"
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(address), "127.0.0.1", self.port
            )
        except OSError as error:
            raise RequestFailedError(str(error)) from error
        self._all.append(connection)
        return connection
