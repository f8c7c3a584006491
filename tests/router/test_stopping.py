"""A router that is asked to stop: unready first, then without new connections, at last with errors."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import aiohttp
import pytest

from router.app import create_app
from router.requests import tokenizers
from router.server import RouterServer, bind
from router.settings import RouterSettings
from tests.router.conftest import NO_REDIS, Router
from tests.router.fake_engine import DONE, event, never_end, stay_silent, stream
from tests.waiting import eventually

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = {**CHAT, "stream": True}


@asynccontextmanager
async def serving(engines, tiny_model, **seconds):
    """A router with all of its server's life, and the task of that."""
    settings = RouterSettings(
        redis_url=NO_REDIS, port=0, tokenizers={"m": tiny_model}, policy="round-robin", **seconds
    )
    app, listener = create_app(settings), bind("127.0.0.1", 0)
    server, port = RouterServer(app), listener.getsockname()[1]
    life = asyncio.create_task(server.serve(sockets=[listener]))
    await eventually(lambda: server.started)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
        router = Router(app, server, port, client)
        for name, engine in zip("ab", engines, strict=True):
            router.admit(engine.url, name)
        await router.settled()
        try:
            yield router, life
        finally:
            server.should_exit = server.force_exit = True
            await life


@pytest.fixture(autouse=True)
def _quick(monkeypatch, _tokenizers_imported):
    monkeypatch.setattr(tokenizers, "CHECK_SECONDS", 0.005)


async def test_steps(engines, tiny_model):
    """Unready, it still takes connections and requests, whose connections end with them; then it takes none,
    and lets a stream finish.
    """
    async with serving(engines, tiny_model, unready_seconds=1.0) as (router, life):
        engines[1].script.append(stream(event("a"), event("b"), DONE, pause=0.9))
        async with router.post(CHAT) as response:
            assert (response.status, "connection" in response.headers) == (200, False)
        async with router.post(STREAM) as response:
            router.server.should_exit = True
            await eventually(lambda: router.app.state.readiness.stopping)
            status, answer = await router.get("/readyz")
            assert (status, answer["missing"][0]) == (503, "this router is about to stop")
            for _ in range(3):
                async with (
                    aiohttp.ClientSession() as fresh,
                    fresh.post(router.url + "/v1/chat/completions", json=CHAT) as other,
                ):
                    assert (other.status, other.headers["connection"]) == (200, "close")
            await eventually(lambda: not any(each.is_serving() for each in router.server.servers), 5)
            with pytest.raises(aiohttp.ClientConnectorError):
                await router.get("/readyz")
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        await asyncio.wait_for(life, 5)
        assert router.fleet.open_bookings == 0


async def test_what_is_open_at_the_limit_ends_with_an_error(engines, tiny_model, capsys):
    """A stream gets an event and its end, what has no answer yet a status; both engines see it, and none has
    failed.
    """
    async with serving(engines, tiny_model, grace_seconds=0.3) as (router, life):
        engines[0].script.append(never_end)
        engines[1].script.append(stay_silent)
        _, late = await router.connect(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{"
        )
        async with router.post(STREAM) as response:
            silent = asyncio.create_task(ask(router))
            await eventually(lambda: engines[1].exchanges)
            began = time.monotonic()
            router.server.should_exit = True
            *_, error, done, _ = (await response.read()).split(b"\n\n")
            assert done == b"data: [DONE]"
            error = json.loads(error.removeprefix(b"data: "))["error"]
            assert (error["code"], error["type"]) == ("router_stopping", "service_unavailable")
            status, answer = await silent
            assert (status, answer["error"]["code"]) == (503, "router_stopping")
        await asyncio.wait_for(life, 5)
        assert 0.3 < time.monotonic() - began < 2
        for engine in engines:
            assert engine.exchanges[-1].gone.is_set()
        ends = [line for line in capsys.readouterr().out.splitlines() if "request_finished" in line]
        assert sum("outcome=cancelled" in line for line in ends if "replica=None" not in line) == 2
        assert router.fleet.open_bookings == 0
        late.close()


async def ask(router):
    """Status and answer."""
    async with router.post(CHAT) as response:
        return response.status, await response.json()


async def test_clients_that_take_nothing_do_not_keep_it(engines, tiny_model, monkeypatch):
    """The errors wait for them only for a moment."""
    monkeypatch.setattr("router.server.LAST_SECONDS", 0.5)

    async def flood(exchange):
        await exchange.head()
        while not exchange.gone.is_set():
            await exchange.chunk(event("x" * 100_000))

    async with serving(engines, tiny_model, grace_seconds=0.2) as (router, life):
        engines[0].script.append(flood)
        body = json.dumps(STREAM).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        _, writer = await router.connect(head + body)
        await eventually(lambda: engines[0].exchanges)
        router.server.should_exit = True
        await asyncio.wait_for(life, 5)
        writer.close()


async def test_forced_end_waits_for_nothing(engines, tiny_model):
    """Neither to be seen as unready nor for streams."""
    async with serving(engines, tiny_model, unready_seconds=60, grace_seconds=60) as (router, life):
        engines[0].script.append(never_end)
        async with router.post(STREAM):
            router.server.should_exit = True
            await asyncio.sleep(0.3)
            assert not life.done()
            router.server.force_exit = True
            await asyncio.wait_for(life, 2)
