"""Live updates: first at once, then every second, to a bounded number of pages, and at no cost without."""

import asyncio
import json
import time
from contextlib import suppress

import aiohttp
import pytest

from router.admin import stream as module
from router.admin.stream import MAX_WAITING, Page
from tests.router.test_requests import CHAT
from tests.waiting import eventually


class Reader:
    """One open page."""

    def __init__(self, response):
        self.response = response

    async def next(self, name=None):
        """Name and data of the next event, or of the next with that name; a comment has no name."""
        while True:
            text = (await self.response.content.readuntil(b"\n\n")).decode()
            if text.startswith(":"):
                found, data = None, text.strip()
            else:
                head, _, rest = text.partition("\n")
                found, data = head.removeprefix("event: "), json.loads(rest.removeprefix("data: "))
            if name in (None, found):
                return found, data


def page(router, client=None):
    """Opens a page; use as a context."""
    return (client or router.client).get(router.url + "/admin/stream", read_bufsize=2**20)


def pages(router):
    """The open pages of a router."""
    return router.app.state.stream


@pytest.fixture
async def quick(router, monkeypatch):
    """A router whose pages are updated often."""
    monkeypatch.setattr(module, "UPDATE_SECONDS", 0.05)
    return router


async def test_overview_at_once_and_again(router):
    """The first comes with the page, the next a second later, each newer than the one before."""
    began = time.monotonic()
    async with page(router) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        reader = Reader(response)
        name, first = await reader.next()
        assert (name, [replica["replica"] for replica in first["replicas"]]) == ("overview", ["a", "b"])
        assert time.monotonic() - began < 0.8
        _, second = await reader.next("overview")
        assert 0.8 < second["time"] - first["time"] < 2.0
    await eventually(lambda: pages(router).num_pages == 0)


async def test_requests_as_they_end(quick):
    """Those that have ended since, newest first; none from before the page was opened."""
    async with quick.post(CHAT) as response:
        await response.read()
    async with page(quick) as response:
        reader = Reader(response)
        await reader.next("overview")
        ids = []
        for _ in range(3):
            async with quick.post(CHAT) as answer:
                await answer.read()
                ids.append(answer.headers["x-request-id"])
        seen = []
        while len(seen) < 3:
            seen = [summary["request_id"] for summary in (await reader.next("requests"))[1]] + seen
        assert seen == ids[::-1]


async def _since(moment, reader):
    """The first two overviews that a page gets after a moment."""
    count = 0
    while count < 2:
        _, overview = await reader.next("overview")
        if overview["time"] > moment:
            count += 1
            yield overview


async def test_many_pages_share_one_overview(quick, monkeypatch):
    """It is made once for all of them."""
    made = []
    encoded = module.Overview.encoded

    async def counted(overview):
        made.append(time.monotonic())
        return await encoded(overview)

    monkeypatch.setattr(module.Overview, "encoded", counted)
    async with aiohttp.ClientSession() as client:
        readers = [Reader(await page(quick, client)) for _ in range(10)]
        all_open = time.time()
        times = [[overview["time"] async for overview in _since(all_open, reader)] for reader in readers]
        seen = {moment for each in times for moment in each}
        assert len(seen) <= 8  # of twenty, if each page had its own
        assert len(seen) <= len(made)
    await eventually(lambda: pages(quick).num_pages == 0)
    await asyncio.sleep(0.1)
    num_made = len(made)
    await asyncio.sleep(0.2)
    assert len(made) == num_made, "made for nobody"


async def test_no_more_pages_than_there_may_be(quick, monkeypatch):
    """The next one is told so; when one is closed it may come in."""
    monkeypatch.setattr(module, "MAX_PAGES", 2)
    async with aiohttp.ClientSession() as client:
        first, second = await page(quick, client), await page(quick, client)
        async with page(quick, client) as refused:
            assert refused.status == 429
            assert (await refused.json())["error"]["code"] == "rate_limit_exceeded"
        first.close()
        await eventually(lambda: pages(quick).num_pages == 1)
        async with page(quick, client) as response:
            assert response.status == 200
        second.close()


async def test_a_page_that_does_not_read_is_cut_off(quick, monkeypatch):
    """However much it was sent: it holds neither memory nor a place for long."""
    monkeypatch.setattr(module, "STALLED_SECONDS", 0.2)
    monkeypatch.setattr(module.Overview, "encoded", lambda _: asyncio.sleep(0, b"x" * 4_000_000))
    reader, writer = await asyncio.open_connection("127.0.0.1", quick.port, limit=1024)
    writer.write(b"GET /admin/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await eventually(lambda: pages(quick).num_pages == 1)
    await eventually(lambda: pages(quick).num_pages == 0)
    async with asyncio.timeout(2):
        with suppress(ConnectionResetError):
            while await reader.read(65536):
                pass
    writer.close()


async def test_events_that_wait_have_a_bound():
    """A page that falls behind gets the newest overview; one that misses other events ends."""
    behind = Page()
    for number in range(1000):
        behind.show(b"overview %d " % number)
    behind.add(b"audit")
    assert await behind.next() == b"overview 999 audit"
    for _ in range(MAX_WAITING):
        behind.add(b"event")
    assert not behind.over
    behind.add(b"event")
    assert behind.over


async def test_silence_is_a_comment(monkeypatch):
    """Proxies close what is silent for long."""
    monkeypatch.setattr(module, "ALIVE_SECONDS", 0.01)
    assert await Page().next() == b": alive\n\n"


async def test_pages_do_not_keep_a_router_from_stopping(quick):
    """uvicorn waits for open answers; these end at once, properly."""
    async with page(quick) as response:
        await Reader(response).next("overview")
        began = time.monotonic()
        for connection in list(quick.server.server_state.connections):
            connection.shutdown()
        rest = await response.content.read()
        assert time.monotonic() - began < 1.0
        assert b"event" in rest or rest == b""
    await eventually(lambda: pages(quick).num_pages == 0)
    await eventually(lambda: not quick.server.server_state.tasks)


async def test_audit_and_requests_of_other_routers(start_router, redis_server, monkeypatch):
    """A page shows what was changed and asked elsewhere, too; not what was before it was opened."""
    monkeypatch.setattr(module, "UPDATE_SECONDS", 0.05)
    one, other = [await start_router(redis_url=redis_server.url) for _ in range(2)]
    await eventually(lambda: one.fleet.store_reachable and other.fleet.store_reachable)

    async def switch(policy):
        async with other.client.put(other.url + "/admin/policy", json={"policy": policy}) as response:
            assert response.status == 200

    await switch("warm")
    async with page(one) as response:
        reader = Reader(response)
        for _ in range(3):
            await reader.next("overview")
        await switch("least-load")
        [entry] = (await reader.next("audit"))[1]
        assert (entry["action"], entry["target"]) == ("switch_policy", "least-load")
        assert entry["by"] == "127.0.0.1, loopback"
        async with other.post({**CHAT, "model": "nobody"}) as answer:
            assert answer.status == 404
            request_id = answer.headers["x-request-id"]
        [summary] = (await reader.next("requests"))[1]
        assert (summary["request_id"], summary["outcome"]) == (request_id, "refused")


async def test_without_redis_pages_go_on(quick):
    """There are no entries of the audit log then; the rest comes as before."""
    async with page(quick) as response:
        reader = Reader(response)
        for _ in range(3):
            _, overview = await reader.next("overview")
        assert "redis" in {alarm["kind"] for alarm in overview["alarms"]}
