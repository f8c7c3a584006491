"""Bytes between a client and the router, as any ASGI server carries them."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from router.errors import BodyTooLargeError, ClientStalledError, ReplyBrokenError
from router.http.admission import Claim
from router.http.arrival import body_deadline, too_slow
from router.http.sse import EventFilter
from router.upstream.client import UpstreamReply


class Client(Protocol):
    """Who sent a request and gets its answer."""

    claim: Claim
    """What the request takes of the router's bounds; its body counts in it as it arrives."""

    async def read_body(self, limit: int, seconds: float) -> bytes | None:
        """See the function `read_body`."""

    async def stays_for(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work. False when the client left first: then it was cancelled, and has cleaned up."""

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer. Raises `ClientStalledError`, like all that send."""

    async def relay(
        self, status: int, headers: Mapping[str, str], reply: UpstreamReply, events: EventFilter
    ) -> str | None:
        """Begin an answer with what the filter lets pass of an engine's; why that broke off, or None."""

    async def end(self, rest: bytes) -> None:
        """Send the rest of an answer that was begun by `relay`."""


class AsgiClient:
    """A client behind any ASGI server."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, stalled_seconds: float, claim: Claim
    ) -> None:
        self.claim = claim
        self._scope = scope
        self._receive = receive
        self._send_now = send
        self._stalled_seconds = stalled_seconds

    async def read_body(self, limit: int, seconds: float) -> bytes | None:
        """See `Client`."""
        return await read_body(Headers(scope=self._scope), self._receive, limit, seconds, self.claim)

    async def stays_for(self, work: Coroutine[Any, Any, None]) -> bool:
        """See `Client`."""
        task = asyncio.ensure_future(work)
        watcher = asyncio.ensure_future(self._disconnected())
        try:
            await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
            stayed = task.done()
            if not stayed:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            return stayed
        finally:
            watcher.cancel()
            task.cancel()

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """See `Client`."""
        await self._start(status, {**headers, "content-length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def relay(
        self, status: int, headers: Mapping[str, str], reply: UpstreamReply, events: EventFilter
    ) -> str | None:
        """See `Client`."""
        await self._start(status, headers)
        try:
            async for chunk in reply.chunks():
                if passed := events.feed(chunk):
                    await self._send({"type": "http.response.body", "body": passed, "more_body": True})
        except ReplyBrokenError as error:
            return str(error)
        return None

    async def end(self, rest: bytes) -> None:
        """See `Client`."""
        await self._send({"type": "http.response.body", "body": rest, "more_body": False})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        encoded = [
            (name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._stalled_seconds):
                await self._send_now(message)
        except TimeoutError as error:
            raise ClientStalledError(f"the client took nothing for {self._stalled_seconds:g} s") from error
        except (OSError, RuntimeError) as error:  # of ASGI; of uvloop, where a server did not notice in time
            raise ClientStalledError(f"the client cannot be written to: {error}") from error


async def read_body(
    headers: Headers, receive: Receive, limit: int, seconds: float, claim: Claim | None = None
) -> bytes | None:
    """The whole request body of at most ``limit`` bytes; None when the client left before its end.

    Raises `BodyTooLargeError` and, with a claim, `OverloadedError`, as early as the headers say so; and
    `RequestTooSlowError`.
    """
    if (declared := headers.get("content-length", "")).isdigit():
        if int(declared) > limit:
            raise BodyTooLargeError(limit)
        if claim is not None:
            claim.expect(int(declared))
    parts, size, began = [], 0, asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(body_deadline(began, 0, seconds)) as deadline:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(part := message.get("body", b""))
                if claim is not None:
                    claim.add(len(part))
                if (size := size + len(part)) > limit:
                    raise BodyTooLargeError(limit)
                deadline.reschedule(body_deadline(began, size, seconds))
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise too_slow(seconds) from error
    return b"".join(parts)
