"""Live updates for open pages, as server-sent events: computed and encoded once for all pages, and not at all
while none is open.

A page that does not read is cut off. One that reads slowly gets the newest overview only.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cluster.errors import StoreUnavailableError
from router.admin.access import DOCUMENTED
from router.admin.overview import Overview, OverviewAnswer
from router.answers import JsonResponse, answers
from router.errors import OverloadedError
from router.http.client_request import client_request
from router.observe.audit import AuditLog
from router.observe.explanations import Explanations

UPDATE_SECONDS = 1.0
ALIVE_SECONDS = 10.0
STALLED_SECONDS = 15.0
"""How long a page may take nothing of what it is sent."""
MAX_PAGES = 100
MAX_WAITING = 32
"""Events that wait for a page, besides the overview; one with more is cut off."""
MAX_REQUESTS = 20
MAX_AUDIT = 100
ALIVE = b": alive\n\n"

log = structlog.get_logger()


class Page:
    """What one open page has not been sent yet."""

    def __init__(self) -> None:
        self._overview = b""
        self._events: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self.over = False
        """Whether its stream should end."""

    def show(self, overview: bytes) -> None:
        """A newer overview takes the place of one that was not sent."""
        self._overview = overview
        self._changed.set()

    def add(self, event: bytes) -> None:
        """One more event."""
        self._events.append(event)
        self.over = self.over or len(self._events) > MAX_WAITING
        self._changed.set()

    def end(self) -> None:
        """Its client has left, or the router stops."""
        self.over = True
        self._changed.set()

    async def next(self) -> bytes:
        """All that there is, as soon as there is something; a comment after a while without."""
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            return ALIVE
        self._changed.clear()
        events = b"".join([self._overview, *self._events])
        self._overview = b""
        self._events.clear()
        return events


class Stream:
    """All open pages of one router. `run` feeds them."""

    def __init__(self, overview: Overview, explanations: Explanations, audit: AuditLog) -> None:
        self._overview = overview
        self._explanations = explanations
        self._audit = audit
        self._pages: set[Page] = set()
        self._opened = asyncio.Event()
        self._latest = b""
        self._latest_at = -UPDATE_SECONDS
        self._last_added = 0
        self._last_shared = self._last_entry = b""

    @property
    def num_pages(self) -> int:
        """How many are open."""
        return len(self._pages)

    def open(self) -> Page:
        """A new page. Raises `OverloadedError` when there are too many."""
        if len(self._pages) >= MAX_PAGES:
            raise OverloadedError(f"{MAX_PAGES} pages are open already.")
        page = Page()
        if time.monotonic() - self._latest_at < UPDATE_SECONDS:
            page.show(self._latest)
        self._pages.add(page)
        self._opened.set()
        return page

    def close(self, page: Page) -> None:
        """A page is gone."""
        self._pages.discard(page)

    async def run(self) -> None:
        """Feed open pages until cancelled."""
        while True:
            await self._opened.wait()
            self._forget_past()
            while self._pages:
                due = time.monotonic() + UPDATE_SECONDS
                await self._update()
                await asyncio.sleep(due - time.monotonic())
            self._opened.clear()

    async def _update(self) -> None:
        self._latest = event("overview", await self._overview.encoded())
        self._latest_at = time.monotonic()
        for page in self._pages:
            page.show(self._latest)
        for make in (self._new_requests, self._new_entries):
            with suppress(StoreUnavailableError):  # the overview shows it
                if (encoded := await make()) is not None:
                    for page in self._pages:
                        page.add(encoded)

    async def _new_requests(self) -> bytes | None:
        self._last_added, own = self._explanations.added_since(self._last_added, MAX_REQUESTS)
        others: list[Any] = []
        with suppress(StoreUnavailableError):
            self._last_shared, others = await self._explanations.shared_since(self._last_shared, MAX_REQUESTS)
        newest = sorted([*own, *others], key=lambda summary: -summary.time)[:MAX_REQUESTS]
        return event("requests", msgspec.json.encode(newest)) if newest else None

    async def _new_entries(self) -> bytes | None:
        self._last_entry, entries = await self._audit.since(self._last_entry, MAX_AUDIT)
        return event("audit", msgspec.json.encode(entries)) if entries else None

    def _forget_past(self) -> None:
        """Pages have read themselves what was before."""
        self._last_added = self._explanations.num_added
        self._last_shared = self._last_entry = b""


class PageResponse(Response):
    """The stream of one page, until its client leaves, does not read, or the router stops."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._stream = stream
        self._page = stream.open()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until it is over."""
        page, request = self._page, client_request(scope)
        request.on_shutdown = page.end
        watcher = asyncio.create_task(_until_gone(receive, page.end))
        try:
            async with asyncio.timeout(STALLED_SECONDS) as limit:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                while not page.over:
                    limit.reschedule(None)
                    events = await page.next()
                    limit.reschedule(asyncio.get_running_loop().time() + STALLED_SECONDS)
                    await send({"type": "http.response.body", "body": events, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.info("page_stalled", seconds=STALLED_SECONDS)
            request.cut()
        finally:
            watcher.cancel()
            self._stream.close(page)


def stream_routes(overview: Overview, stream: Stream) -> APIRouter:
    """The overview, once or live."""
    routes = APIRouter(**DOCUMENTED)

    @routes.get("/admin/overview", **answers(OverviewAnswer))
    async def get_overview() -> JsonResponse:
        """The state of everything: fleet, replicas, routers, policy, alarms."""
        return JsonResponse(await overview.encoded())

    events = {"content": {PageResponse.media_type: {"schema": {"type": "string"}}}}

    @routes.get("/admin/stream", response_class=Response, responses={200: events})
    async def get_stream() -> Response:
        """Server-sent events: `overview` every second, `requests` and `audit` when there are new ones, each
        with the same JSON as the path of its name."""
        return PageResponse(stream)

    return routes


def event(name: str, data: bytes) -> bytes:
    """A server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


async def _until_gone(receive: Callable[[], Awaitable[Any]], then: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    then()
