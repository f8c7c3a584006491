"""One request on a client's connection: its body, and its answer by writing to the connection.

There is no task and no coroutine per chunk: a chunk goes from the engine's connection to the client's within
one callback. Starlette's endpoints use the same request through ASGI.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from router.errors import ApiError, BodyTooLargeError, ClientStalledError, OverloadedError
from router.http.admission import Claim, Party
from router.http.answer_ways import Source
from router.http.sse import EventFilter

IN_SCOPE = "warmroute.request"
"""Where the scope that an application gets holds the request itself."""


@dataclass(slots=True, eq=False, repr=False)
class ClientRequest:
    """Reads one request's body and answers it."""

    _cycle: RequestResponseCycle
    claim: Claim
    """What the request takes of the router's bounds; its body counts in it as it arrives."""
    _declared: int
    """Length of the body, by its header; 0 where that does not say."""
    _read_on: Callable[[], None]
    """Lets the connection read what the client has sent meanwhile."""
    on_shutdown: Callable[[], object] | None = None
    """Called when the server stops, which waits for answers: one without an end should end now."""
    ended_by: ApiError | None = None
    """Why the router ended the answer itself."""
    expects_continue: bool = field(init=False)
    """Whether the client waits for leave to send its body."""
    _on_gone: Callable[[], object] | None = None
    """Called when the client leaves before its answer is complete."""
    _refusal: ApiError | None = None
    _transport: asyncio.Transport = field(init=False)
    _is_chunked: bool = False
    """Whether the body goes out in chunked transfer encoding. `_write` does that, the transport not."""
    _source: Source | None = None
    """The engine's answer, while that is relayed."""
    _events: EventFilter = field(init=False)
    _broken: str | None = None
    _waiter: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        cycle = self._cycle
        self._transport, self.expects_continue = cycle.transport, cycle.waiting_for_100_continue
        cycle.receive, cycle.send = self._receive, self._send  # type: ignore[method-assign]  # of this request
        if self._declared:
            try:
                self.claim.expect(self._declared)
            except OverloadedError as error:
                self.refuse_body(error)

    @property
    def party(self) -> Party:
        """Whose share of the router's bounds the request takes."""
        return self.claim.party

    @property
    def is_gone(self) -> bool:
        """Whether the client has left, though the connection may not know yet: writing would be an error."""
        if self._transport.is_closing():
            self._cycle.disconnected = True
        return self._cycle.disconnected

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
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while cycle.more_body and len(cycle.body) <= limit and self._refusal is None:
            if cycle.disconnected:
                return None
            self._read_on()
            await cycle.message_event.wait()
            cycle.message_event.clear()
        if self._refusal is not None:
            raise self._refusal
        if len(cycle.body) > limit:
            raise BodyTooLargeError(limit)
        self._read_on()
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
        """Drop the body, as far as it has come and what follows; whoever reads it gets this error."""
        self._refusal = why
        self.drop_body()
        self._cycle.message_event.set()

    # ---- the answer ----

    def add_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Put these on the answer, whoever gives it."""
        self._cycle.default_headers = [*self._cycle.default_headers, *headers]

    async def stays_for(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work. False when the client left first: then it was cancelled, and has cleaned up."""
        task = asyncio.current_task()
        assert task is not None
        if self.is_gone:
            work.close()
            return False
        self._on_gone = task.cancel
        try:
            await work
        except asyncio.CancelledError:
            if self.ended_by is None and not self.is_gone:
                raise
            task.uncancel()
            if self.ended_by is not None:
                raise self.ended_by from None
            return False
        finally:
            self._on_gone = None
        return True

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer. Raises `ClientStalledError`, like all that send."""
        self._start(status, headers, body)
        await self._end()

    async def relay(
        self, status: int, headers: Mapping[str, str], source: Source, events: EventFilter
    ) -> str | None:
        """Begin an answer with what the filter lets pass of an engine's; why that broke off, or None.

        Then call `end`.
        """
        self._events, self._source = events, source
        self._start(status, headers)
        source.relay(self)
        if self._cycle.flow.write_paused:  # since before
            self.write_paused()
        if self._source is not None:
            await self._wait()
        return self._broken

    async def end(self, rest: bytes) -> None:
        """Send the rest of an answer that was begun by `relay`."""
        if rest:
            self._write(rest)
        await self._end()

    def _start(self, status: int, headers: Mapping[str, str], body: bytes | None = None) -> None:
        """Send status and headers, and the whole body if there is one; else it follows."""
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
        self._is_chunked = body is None and cycle.scope["http_version"] == "1.1"
        if body is not None:
            lines += (b"content-length: %d\r\n\r\n" % len(body), body)
        else:
            lines.append(b"transfer-encoding: chunked\r\n\r\n" if self._is_chunked else b"\r\n")
        cycle.response_started = True
        self._transport.write(b"".join(lines))

    def _write(self, data: bytes) -> None:
        """Send some bytes of the body; never none."""
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        try:
            self._transport.write(data)
        except RuntimeError:  # uvloop's; asking before each write would cost more
            if not self.is_gone:
                raise

    async def _end(self) -> None:
        """The answer is complete, once the client has taken what is above the transport's high-water mark."""
        if self._cycle.flow.write_paused:
            await self._wait()
        cycle = self._cycle
        if self.is_gone:
            return
        if self._is_chunked:
            self._transport.write(b"0\r\n\r\n")
        cycle.response_complete = True
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cut(self) -> None:
        """Drop the connection and what is still on its way to the client."""
        self._cycle.disconnected = True
        self._transport.abort()

    # ---- called by the engine's connection: see `router.http.answer_ways.Sink` ----

    def received(self, data: bytes) -> None:
        """Pass on what passes the filter."""
        if passed := self._events.feed(data):
            self._write(passed)

    def took_chunk(self, data: bytes) -> bool:
        """Pass on a chunk as the engine framed it, where nothing in it is to be read or left out."""
        if not self._is_chunked or not self._events.passes_chunk(data):
            return False
        try:
            self._transport.write(data)
        except RuntimeError:  # as in `_write`
            if not self.is_gone:
                raise
        return True

    def ended(self, broken: str | None) -> None:
        """The engine's answer is over."""
        self._source, self._broken = None, broken
        self._wake()

    # ---- called by the client's connection ----
    def drop_body(self) -> None:
        """Nobody needs it any more."""
        self._cycle.body = bytearray()
        self.claim.release_body()

    def close_after(self) -> None:
        """Nothing on this connection will be answered after it."""
        self._cycle.keep_alive = False

    def write_paused(self) -> None:
        """Take nothing more from the engine while the client does not take it."""
        if self._source is not None:
            self._source.pause()

    def write_resumed(self) -> None:
        """The client's socket takes data again."""
        if self._source is not None:
            self._source.resume()
        else:
            self._wake()

    def client_stalled(self) -> None:
        """The client takes nothing of its answer."""
        self._on_gone = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ClientStalledError("the client took nothing for too long"))
        self.cut()

    def end_now(self, why: ApiError) -> None:
        """Answer with this error, or end with it what an engine streams. What is complete stays so."""
        self.ended_by = why
        if self._source is not None:
            self.ended(why.message)
        elif not self._cycle.response_started:
            self.refuse_body(why)
            if self._on_gone is not None:
                self._on_gone()

    def client_left(self) -> None:
        """The connection has ended."""
        self.drop_body()
        self._cycle.disconnected = True
        self._cycle.message_event.set()
        if self._on_gone is not None:
            self._on_gone()


def client_request(scope: Scope) -> ClientRequest:
    """The request for which an application was given this scope."""
    request: ClientRequest = scope[IN_SCOPE]
    return request
