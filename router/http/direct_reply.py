"""One request on a client's connection: its body, and its answer by writing to the connection.

Under another ASGI server there is none, and both go the ordinary way.
"""

from asyncio import Transport
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec
from starlette.types import Scope
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from router.errors import ApiError, BodyTooLargeError, OverloadedError
from router.http.admission import Claim

EXTENSION = "warmroute.direct"


class Connection(Protocol):
    """What a request needs of the connection that it came by."""

    transport: Transport
    flow: FlowControl

    def read_on(self) -> None:
        """Read what the client has sent meanwhile."""


def raw_answer(error: ApiError, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An answer to what never became a request; the connection ends after it."""
    body = msgspec.json.encode(error.body())
    lines = [STATUS_LINE[error.status], *(b"%b: %b\r\n" % header for header in headers)]
    if error.retry_after is not None:
        lines.append(b"retry-after: %d\r\n" % error.retry_after)
    lines.append(b"content-type: application/json\r\nconnection: close\r\n")
    lines.append(b"content-length: %d\r\n\r\n" % len(body))
    return b"".join([*lines, body])


class DirectReply:
    """Reads one request's body and answers it, without a coroutine per chunk."""

    __slots__ = (
        "_connection",
        "_cycle",
        "_declared",
        "_refusal",
        "claim",
        "expects_continue",
        "is_chunked",
        "on_full",
        "on_gone",
        "on_resumed",
        "on_shutdown",
        "on_stalled",
        "transport",
    )

    def __init__(
        self, connection: Connection, cycle: RequestResponseCycle, claim: Claim, declared: int
    ) -> None:
        self._connection = connection
        self._cycle = cycle
        self._declared = declared
        self._refusal: ApiError | None = None
        self.claim = claim
        """What the request takes of the router's bounds."""
        self.expects_continue = cycle.waiting_for_100_continue
        """Whether the client waits for leave to send its body."""
        self.transport = connection.transport
        self.is_chunked = False
        """Whether the body goes out in chunked transfer encoding. `write` does that, the transport not."""
        self.on_gone: Callable[[], object] | None = None
        """Called when the client leaves before its answer is complete."""
        self.on_full: Callable[[], object] | None = None
        """Called when `is_full` becomes true."""
        self.on_resumed: Callable[[], object] | None = None
        """Called when the client's socket takes data again after it was `is_full`."""
        self.on_stalled: Callable[[], object] | None = None
        """Called, instead of `on_gone`, when the connection is cut since the client takes nothing."""
        self.on_shutdown: Callable[[], object] | None = None
        """Called when the server stops, which waits for answers: one without an end should end now."""
        cycle.receive, cycle.send = self._receive, self._send  # type: ignore[method-assign]
        if declared:
            try:
                claim.expect(declared)
            except OverloadedError as error:
                self.refuse_body(error)

    @property
    def is_gone(self) -> bool:
        """Whether the client has left, though nobody may have been told yet: writing would be an error."""
        if self.transport.is_closing():
            self._cycle.disconnected = True
        return self._cycle.disconnected

    @property
    def is_full(self) -> bool:
        """Whether more waits for the client than the transport's high-water mark, 64 KiB."""
        return self._connection.flow.write_paused

    # ---- the body ----

    async def read_body(self, limit: int) -> bytes | None:
        """The whole body of at most ``limit`` bytes; None when the client left before its end.

        Raises `BodyTooLargeError`, as early as the headers say so, or why else it is not taken: `ApiError`.
        """
        cycle = self._cycle
        if self._declared > limit:
            raise BodyTooLargeError(limit)
        if cycle.waiting_for_100_continue and cycle.more_body and not self.is_gone:
            cycle.waiting_for_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while cycle.more_body and len(cycle.body) <= limit and self._refusal is None:
            if cycle.disconnected:
                return None
            self._connection.read_on()
            await cycle.message_event.wait()
            cycle.message_event.clear()
        if self._refusal is not None:
            raise self._refusal
        if len(cycle.body) > limit:
            raise BodyTooLargeError(limit)
        self._connection.read_on()
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    async def _receive(self) -> ASGIReceiveEvent:
        """What applications read bodies with that know nothing of us."""
        message = await RequestResponseCycle.receive(self._cycle)
        if self._refusal is None or message["type"] == "http.disconnect":
            return message
        if self._cycle.response_started:
            return {"type": "http.disconnect"}
        raise self._refusal

    async def _send(self, message: ASGISendEvent) -> None:
        """What such applications answer with. Uvicorn drops it where the client is known to be gone."""
        if not self.is_gone:
            await RequestResponseCycle.send(self._cycle, message)

    def take_part(self, data: bytes) -> bool:
        """Count a part of the body, which has just come. False when it is not wanted."""
        if self._refusal is None:
            try:
                self.claim.add(len(data))
            except OverloadedError as error:
                self.refuse_body(error)
        return self._refusal is None

    def refuse_body(self, why: ApiError) -> None:
        """Drop the body, as far as it has come and what follows; whoever reads it is told why."""
        self._refusal = why
        self.drop_body()
        self._cycle.message_event.set()

    # ---- the answer ----

    def start(self, status: int, headers: Mapping[str, str], body: bytes | None = None) -> None:
        """Send status and headers, and the whole body if there is one; else it follows. Then call `end`."""
        cycle, lines = self._cycle, [STATUS_LINE[status]]
        if self.is_gone:
            return
        for name, value in cycle.default_headers:
            lines += (name, b": ", value, b"\r\n")
        text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
            raise ValueError("a header would end its line")
        lines.append(text.encode("latin-1", "replace"))
        if cycle.waiting_for_100_continue and cycle.more_body:
            cycle.keep_alive = False  # the body will not come, and what comes next would be taken for it
        cycle.waiting_for_100_continue = False
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        if body is not None:
            lines += (b"content-length: %d\r\n\r\n" % len(body), body)
        elif cycle.scope["http_version"] == "1.1":
            self.is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n\r\n")
        else:
            lines.append(b"\r\n")
        cycle.response_started = True
        self.transport.write(b"".join(lines))

    def write(self, data: bytes) -> None:
        """Send some bytes of the body; never none."""
        if self.is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        try:
            self.transport.write(data)
        except RuntimeError:  # uvloop's; asking before each write would cost more
            if not self.is_gone:
                raise

    def end(self) -> None:
        """The answer is complete."""
        cycle = self._cycle
        if self.is_gone:
            return
        if self.is_chunked:
            self.transport.write(b"0\r\n\r\n")
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def cut(self) -> None:
        """Drop the connection and what is still on its way to the client."""
        self._cycle.disconnected = True
        self.transport.abort()

    # ---- called by the connection ----

    def drop_body(self) -> None:
        """Nobody needs it any more."""
        self._cycle.body = bytearray()
        self.claim.release_body()

    def close_after(self) -> None:
        """Nothing on this connection will be answered after it."""
        self._cycle.keep_alive = False

    def client_stalled(self) -> None:
        """The client takes nothing of its answer."""
        if self.on_stalled is not None:
            self.on_gone = None
            self.on_stalled()
        self.cut()

    def client_left(self) -> None:
        """The connection has ended."""
        self.drop_body()
        self._cycle.disconnected = True
        self._cycle.message_event.set()
        if self.on_gone is not None:
            self.on_gone()


def direct_reply(scope: Scope) -> DirectReply | None:
    """The direct way for the answer to this request; None under another server."""
    reply: DirectReply | None = scope.get("extensions", {}).get(EXTENSION, {}).get("reply")
    return reply
