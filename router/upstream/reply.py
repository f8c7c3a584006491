"""An engine's answer on its way: read piece by piece, or relayed as it arrives."""

import asyncio
from collections.abc import Callable

from router.errors import ReplyBrokenError, ReplyTooLargeError
from router.http.answer_ways import Sink
from router.http.sse import ANNOUNCEMENTS, MAX_EVENT_BYTES, first_event, without_comments
from router.http.time_limits import NEVER
from router.upstream.engine_connection import EngineConnection

READ_BUFFER_BYTES = 64 * 1024
MAX_REPLY_BYTES = 64 * 1024 * 1024
CLOSING_SECONDS = 1.0
"""How long after a request was sent the news may come that its connection was closing just then."""


class UpstreamReply:
    """An engine's answer, from its first bytes on. Close it, or read it to its end.

    ``first`` holds the bytes that have come already.
    """

    def __init__(self, idle_seconds: float, on_close: Callable[[], None], limited_by: str = "") -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """Those that clients get."""
        self.first = b""
        self.has_token = False
        """Whether ``first`` ends with the first piece of a stream, which has just come."""
        self._loop = asyncio.get_running_loop()
        self._idle_seconds = idle_seconds
        self._on_close: Callable[[], None] | None = on_close
        self._connection: EngineConnection | None = None
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._ended = False
        self._broken: str | None = None
        self._limited_by = limited_by
        """The setting that the limit in `ask` comes from."""
        self._limit_seconds = 0.0
        self._until = NEVER
        self.took_too_long = False
        """Whether the limit in `ask` has passed; that of silence may pass before."""
        self._timed_out = self._unanswered = False
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None

    @property
    def is_stream(self) -> bool:
        """Whether it may be one, if that was asked for: not every engine knows how to stream everything."""
        return self.status == 200 and not self.headers["content-type"].startswith("application/json")

    async def ask(self, connection: EngineConnection, request: bytes, seconds: float) -> bool:
        """Send the request and wait for the first bytes. False when the connection had been closed before.

        All that is read afterwards, until `relay`, must come within the same limit. Raises
        `ReplyBrokenError`.
        """
        self._connection, self._broken, self._unanswered = connection, None, False
        self._limit_seconds = seconds
        sent = self._loop.time()
        connection.deadline = self._until = sent + seconds
        connection.send(request, self)
        try:
            self.first = await self._read()
        except ReplyBrokenError:
            if self._unanswered and self._loop.time() - sent < CLOSING_SECONDS:
                return False
            raise
        return True

    async def read_event(self) -> bytes:
        """Read on until `first` begins with a whole event, and return that; b"" if none comes after
        announcements. Raises `ReplyBrokenError`.

        Comments before it are dropped: an engine keeps a connection alive with them while a request waits.
        """
        self.first = without_comments(self.first)
        while (event := first_event(self.first)) is None and len(self.first) < MAX_EVENT_BYTES:
            data = await self._read()
            if not data:
                break
            self.first = without_comments(self.first + data)
        return event or (b"" if self.first.startswith(ANNOUNCEMENTS) else self.first)

    async def read_all(self, max_bytes: int | None = None) -> None:
        """Take the whole body into `first`. Raises `ReplyBrokenError`; `ReplyTooLargeError` over 64 MiB, or
        over the size given."""
        if self._ended and not self._unread:
            return
        parts, size, most = [], 0, max_bytes or MAX_REPLY_BYTES
        data = self.first
        while data:
            parts.append(data)
            size += len(data)
            if size > most:
                raise ReplyTooLargeError(f"larger than {most} bytes")
            data = await self._read()
        self.first = b"".join(parts)

    def relay(self, sink: Sink) -> None:
        """Give the sink all that has come, and from now on what comes, within the engine's own callback."""
        if data := self.first + self._take():
            sink.received(data)
        if self._ended or self._broken is not None:
            sink.ended(self._broken)
        else:
            self._sink, self._until = sink, NEVER
            if self._connection is not None:
                self._connection.deadline = self._loop.time() + self._idle_seconds
                self._connection.offer_chunks(sink, self._idle_seconds)

    def pause(self) -> None:
        """Stop reading from the engine until `resume`; its silence does not count."""
        if self._connection is not None:
            self._connection.pause()
            self._connection.deadline = NEVER

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._connection is not None:
            self._connection.resume()
            self._connection.deadline = min(self._loop.time() + self._idle_seconds, self._until)

    def close(self) -> None:
        """Drop the connection unless the body came to its end: the engine then stops generating."""
        connection, self._connection, self._sink = self._connection, None, None
        if connection is not None:
            connection.abort()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    async def _read(self) -> bytes:
        if not self._unread and not self._ended and self._broken is None:
            self._waiter = self._loop.create_future()
            await self._waiter
        if not self._unread and self._broken is not None:
            raise ReplyBrokenError(self._broken, timed_out=self._timed_out)
        return self._take()

    def _take(self) -> bytes:
        data = b"".join(self._unread)
        self._unread.clear()
        if self._unread_bytes > READ_BUFFER_BYTES:
            self.resume()
        self._unread_bytes = 0
        return data

    # ---- called by the connection: see `router.upstream.engine_connection.Receiver` ----

    def began(self, status: int, headers: dict[str, str]) -> None:
        """The headers are complete."""
        self.status, self.headers = status, headers

    def received(self, data: bytes) -> None:
        """Some bytes of the body."""
        assert self._connection is not None
        deadline = self._connection.received_at + self._idle_seconds
        if self._sink is not None:
            self._connection.deadline = deadline
            self._sink.received(data)
            return
        self._connection.deadline = min(deadline, self._until)
        self._unread.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > READ_BUFFER_BYTES:
            self.pause()
        self._wake()

    def finished(self) -> None:
        """The body was complete."""
        self._connection = None
        self._ended = True
        self._end(None)

    def failed(self, reason: str, *, unanswered: bool) -> None:
        """The answer broke off."""
        self._connection = None
        self._unanswered = unanswered
        self._end(reason)

    def overdue(self) -> None:
        """The engine is silent for too long."""
        self._connection = None
        self._timed_out = True
        self.took_too_long = self._loop.time() > self._until
        if self.took_too_long:
            setting = f" ({self._limited_by})" if self._limited_by else ""
            self._end(f"no answer within {self._limit_seconds:g} s{setting}")
        else:
            self._end(f"silent for {self._idle_seconds:g} s")

    def _end(self, broken: str | None) -> None:
        self._broken = broken
        if self._sink is not None:
            self._sink.ended(broken)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
