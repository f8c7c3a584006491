"""One connection of a client: uvicorn's own, with a direct way for answers and a bound on what is no body.

Under another ASGI server, or where a request offers no `DirectReply`, answers go the ordinary way.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
"""How much may come without becoming part of a body: headers, chunk extensions, trailers.

What comes in one read (256 KB with uvloop) counts as a whole, so it is a bound on memory, not on a header.
"""
MAX_PIPELINED = 16
"""Requests that are read ahead on one connection. Until then it is read on, so that its end is seen."""
EXTENSION = "warmroute.direct"


class DirectReply:
    """Answers one request by writing to its connection, without a coroutine per chunk."""

    __slots__ = (
        "_connection",
        "_cycle",
        "is_chunked",
        "on_full",
        "on_gone",
        "on_resumed",
        "on_shutdown",
        "transport",
    )

    def __init__(self, connection: "ClientConnection", cycle: RequestResponseCycle) -> None:
        self._connection = connection
        self._cycle = cycle
        self.transport = connection.transport
        self.is_chunked = False
        """Whether the body goes out in chunked transfer encoding. `write` does that, the transport not."""
        self.on_gone: Callable[[], object] | None = None
        """Called when the client leaves before its answer is complete."""
        self.on_full: Callable[[], object] | None = None
        """Called when `is_full` becomes true."""
        self.on_resumed: Callable[[], object] | None = None
        """Called when the client's socket takes data again after it was `is_full`."""
        self.on_shutdown: Callable[[], object] | None = None
        """Called when the server stops, which waits for answers: one without an end should end now."""

    @property
    def is_gone(self) -> bool:
        """Whether the client has left."""
        return self._cycle.disconnected

    @property
    def is_full(self) -> bool:
        """Whether more waits for the client than the transport's high-water mark, 64 KiB."""
        return self._connection.flow.write_paused

    def take_body(self, limit: int) -> bytes | None:
        """The whole request body when it is here already and not over the limit; else read it as usual."""
        cycle = self._cycle
        if cycle.more_body or len(cycle.body) > limit:
            return None
        self._connection.read_on()
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def start(self, status: int, headers: Mapping[str, str], body: bytes | None = None) -> None:
        """Send status and headers, and the whole body if there is one; else it follows. Then call `end`."""
        cycle, lines = self._cycle, [STATUS_LINE[status]]
        if cycle.disconnected:
            return
        for name, value in cycle.default_headers:
            lines += (name, b": ", value, b"\r\n")
        text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
            raise ValueError("a header would end its line")
        lines.append(text.encode("latin-1", "replace"))
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
        cycle.waiting_for_100_continue = False
        self.transport.write(b"".join(lines))

    def write(self, data: bytes) -> None:
        """Send some bytes of the body; never none."""
        if self.is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.transport.write(data)

    def end(self) -> None:
        """The answer is complete."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        if self.is_chunked:
            self.transport.write(b"0\r\n\r\n")
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def cut(self) -> None:
        """Drop the connection and what is still on its way to the client."""
        self.transport.abort()

    def client_left(self) -> None:
        """Called by the connection, at its end."""
        self._cycle.disconnected = True
        self._cycle.message_event.set()
        if self.on_gone is not None:
            self.on_gone()


class ClientConnection(HttpToolsProtocol):
    """uvicorn's connection for HTTP/1.1. It parses, keeps alive, and answers pipelined requests in turn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._outside_body_bytes = 0
        self._refused = False
        self._unanswered: deque[DirectReply] = deque()

    def read_on(self) -> None:
        """Undo what long bodies and pipelined requests pause, else nobody would see the client leave."""
        if len(self.pipeline) < MAX_PIPELINED:
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """The first of its open requests has its answer."""
        self._unanswered.popleft()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP. Whole requests before it are still answered, then the connection ends."""
        if self._unanswered and not self.cycle.more_body:
            self._refused = True
            self.cycle.keep_alive = False
        else:
            super().send_400_response(msg)

    def shutdown(self) -> None:
        """The server stops."""
        super().shutdown()
        for reply in self._unanswered:
            if reply.on_shutdown is not None:
                reply.on_shutdown()

    # ---- called by the transport ----

    def data_received(self, data: bytes) -> None:
        """Parse; refuse heads, chunk extensions and trailers that do not end."""
        if self._refused:
            return
        self._outside_body_bytes += len(data)
        super().data_received(data)
        if self._outside_body_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"More than {MAX_HEAD_BYTES} bytes of headers.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request that waits for its answer; uvicorn tells only the one that came last."""
        super().connection_lost(exc)
        for reply in self._unanswered:
            reply.client_left()
        self._unanswered.clear()

    def pause_writing(self) -> None:
        """More waits for the client than should."""
        super().pause_writing()
        if self._unanswered and (on_full := self._unanswered[0].on_full) is not None:
            on_full()

    def resume_writing(self) -> None:
        """The client takes data again."""
        super().resume_writing()
        if self._unanswered and (on_resumed := self._unanswered[0].on_resumed) is not None:
            on_resumed()

    # ---- called by the parser ----

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are dropped, they could pretend to be one."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is given to the application, with the direct way for its answer."""
        self._in_head = False
        self._outside_body_bytes = 0
        super().on_headers_complete()
        reply = DirectReply(self, self.cycle)
        self._unanswered.append(reply)
        self.read_on()
        self.scope["extensions"] = {EXTENSION: {"reply": reply}}

    def on_body(self, body: bytes) -> None:
        """Some bytes of a body."""
        self._outside_body_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._outside_body_bytes = 0
        super().on_message_complete()


def direct_reply(scope: Scope) -> DirectReply | None:
    """The direct way for the answer to this request; None under another server."""
    reply: DirectReply | None = scope.get("extensions", {}).get(EXTENSION, {}).get("reply")
    return reply
