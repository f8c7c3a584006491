"""Bytes between a client and the router where the server is our own: no task and no coroutine per chunk.

A chunk goes from the engine's connection to the client's within one callback.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from router.errors import ClientStalledError
from router.http.direct_reply import DirectReply
from router.http.sse import EventFilter
from router.upstream.client import UpstreamReply


class DirectClient:
    """A client on a `ClientConnection`. What the methods do is said in `router.api.transport.Client`."""

    __slots__ = (
        "_broken",
        "_chunked_to",
        "_direct",
        "_events",
        "_upstream",
        "_waiter",
        "claim",
    )

    def __init__(self, direct: DirectReply) -> None:
        self._direct = direct
        self.claim = direct.claim
        self._upstream: UpstreamReply | None = None
        self._events: EventFilter
        self._broken: str | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._chunked_to: asyncio.Transport | None = None
        direct.on_full, direct.on_resumed, direct.on_stalled = self._full, self._resumed, self._stalled

    async def read_body(self, limit: int, seconds: float) -> bytes | None:
        """See `Client`. The connection itself sees to the time."""
        return await self._direct.read_body(limit)

    async def stays_for(self, work: Coroutine[Any, Any, None]) -> bool:
        """See `Client`."""
        task = asyncio.current_task()
        assert task is not None
        if self._direct.is_gone:
            work.close()
            return False
        self._direct.on_gone = task.cancel
        try:
            await work
        except asyncio.CancelledError:
            if not self._direct.is_gone:
                raise
            task.uncancel()
            return False
        finally:
            self._direct.on_gone = None
        return True

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """See `Client`."""
        self._direct.start(status, headers, body)
        await self._drained()
        self._direct.end()

    async def relay(
        self, status: int, headers: Mapping[str, str], reply: UpstreamReply, events: EventFilter
    ) -> str | None:
        """See `Client`."""
        self._events, self._upstream = events, reply
        self._direct.start(status, headers)
        self._chunked_to = self._direct.transport if self._direct.is_chunked else None
        reply.relay(self)
        if self._direct.is_full:  # since before
            self._full()
        if self._upstream is not None:
            await self._wait()
        return self._broken

    async def end(self, rest: bytes) -> None:
        """See `Client`."""
        if rest:
            self._direct.write(rest)
        await self._drained()
        self._direct.end()

    async def _drained(self) -> None:
        if self._direct.is_full:
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- called by the engine's connection ----

    def received(self, data: bytes) -> None:
        """Pass on what passes the filter."""
        if passed := self._events.feed(data):
            self._direct.write(passed)

    def took_chunk(self, data: bytes) -> bool:
        """Pass on a chunk as the engine framed it, where nothing in it is to be read or left out."""
        if self._chunked_to is None or not self._events.passes_chunk(data):
            return False
        try:
            self._chunked_to.write(data)
        except RuntimeError:  # as in `DirectReply.write`
            if not self._direct.is_gone:
                raise
        return True

    def ended(self, broken: str | None) -> None:
        """The engine's answer is over."""
        self._upstream, self._broken = None, broken
        self._wake()

    # ---- called by the client's connection ----

    def _full(self) -> None:
        """Take nothing more from the engine while the client does not take it."""
        if self._upstream is not None:
            self._upstream.pause()

    def _resumed(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()
        else:
            self._wake()

    def _stalled(self) -> None:
        """The client has not taken anything for too long; its connection is about to be cut."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ClientStalledError("the client took nothing for too long"))
