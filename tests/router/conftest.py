"""The real router application under uvicorn, between a client and scripted engines."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from functools import lru_cache

import aiohttp
import pytest
import uvloop

from cluster.prompts.chat_rendering import ChatOptions
from cluster.prompts.prompt_cache import PromptCache
from cluster.prompts.tokenizer import PromptTokenizer, tokenizer_fingerprint
from cluster.protocol.wire import Lease, Load, ReplicaState
from router.app import create_app
from router.requests import tokenizers
from router.requests.prompt_threads import PromptThreads
from router.server import RouterServer, bind
from router.settings import RouterSettings
from tests.redis_process import running_redis
from tests.router.fake_engine import FakeEngine
from tests.waiting import eventually

NO_REDIS = "redis://127.0.0.1:1/0"


class Router:
    """A running router and a client for it."""

    def __init__(self, app, server, port, client):
        self.app = app
        self.server = server
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = client

    @property
    def fleet(self):
        """The fleet that decisions are made on."""
        return self.app.state.fleet

    def admit(self, engine_url, replica="a", epoch=1, **changes):
        """Put a ready replica into the fleet, as its lease would."""
        values = {"state": ReplicaState.READY, "model": "m", "block_size": 4, "publishes_events": True}
        lease = Lease(replica=replica, url=engine_url, **{**values, **changes})
        return self.fleet.admit(lease, epoch, Load())

    async def settled(self):
        """Wait until tokenizers have been checked."""
        await self._missing(lambda missing: not any("tokenizer" in reason for reason in missing))

    async def ready(self):
        """Wait until `/readyz` says so."""
        await self._missing(lambda missing: not missing)

    async def _missing(self, accepted):
        for _ in range(2000):
            if accepted((await self.get("/readyz"))[1]["missing"]):
                return
            await asyncio.sleep(0.005)
        raise AssertionError("not ready within 10 s")

    async def get(self, path, **headers):
        """Status and decoded body."""
        async with self.client.get(self.url + path, headers=headers) as response:
            return response.status, await response.json()

    def post(self, body, path="/v1/chat/completions", **options):
        """A generation request; use as a context."""
        content = {"data": body} if isinstance(body, bytes) else {"json": body}
        return self.client.post(self.url + path, **content, **options)

    async def connect(self, data=b""):
        """A connection of our own, and these bytes on it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        return reader, writer

    async def drained(self, seconds=3.0):
        """Wait until no load is booked; the conservation law must hold."""
        await eventually(lambda: self.fleet.open_bookings == 0, seconds)
        self.fleet.check_integrity()
        for replica in self.fleet.replicas.values():
            assert (replica.running, replica.queued_tokens, replica.active_tokens) == (0, 0, 0)
            assert (replica.engine_tokens, replica.held, replica.prefilling) == (0, 0, {})


@asynccontextmanager
async def running(settings):
    """Serve a router on a port that the system gives."""
    app = create_app(settings)
    listener = bind(settings.host, settings.port)
    server = RouterServer(app)
    config = server.config
    config.load()
    server.lifespan = config.lifespan_class(config)
    # What `serve` does, without its signal handlers and its 0.1 s pauses, which add up in a hundred tests.
    await server.startup(sockets=[listener])
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
            yield Router(app, server, listener.getsockname()[1], client)
    finally:
        for each in server.servers:
            each.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        if server.server_state.tasks:
            await asyncio.wait(server.server_state.tasks, timeout=2)
        await server.lifespan.shutdown()
        listener.close()


def pytest_asyncio_loop_factories():
    """The event loop that routers run on."""
    return {"uvloop": uvloop.new_event_loop}


@lru_cache
def _loaded(directory, _fingerprint):
    return PromptTokenizer(directory)


def loaded_once(directory, options=None):
    """A tokenizer as `PromptTokenizer` makes it, from files that this process has loaded before."""
    if options not in (None, ChatOptions()):
        return PromptTokenizer(directory, options=options)
    tokenizer = copy(_loaded(directory, tokenizer_fingerprint(directory)))
    tokenizer.cache = PromptCache()
    return tokenizer


@pytest.fixture(scope="session")
def _tokenizers_imported(tiny_model):
    """The first tokenizer of a process takes seconds to import; no test's time limit should pay for it."""
    loaded_once(tiny_model)


@pytest.fixture
async def start_router(monkeypatch, tiny_model, _tokenizers_imported):
    """Starts routers that end with the test."""
    monkeypatch.setattr(tokenizers, "CHECK_SECONDS", 0.005)
    monkeypatch.setattr(tokenizers, "PromptTokenizer", loaded_once)
    async with AsyncExitStack() as stack:

        async def start(*engines, **changes):
            """With these engines as replicas a, b, c."""
            values = {
                "redis_url": NO_REDIS,
                "port": 0,
                "tokenizers": {"m": tiny_model},
                "policy": "round-robin",
                "grace_seconds": 1.0,
            }
            router = await stack.enter_async_context(running(RouterSettings(**{**values, **changes})))
            for name, engine in zip("abc", engines, strict=False):
                router.admit(engine.url, name)
            return router

        yield start


@pytest.fixture
def threads():
    """For long prompts, as a router has them."""
    threads = PromptThreads()
    yield threads
    threads.close()


@pytest.fixture
async def engines():
    """Two engines."""
    pair = [FakeEngine(), FakeEngine()]
    for engine in pair:
        await engine.start()
    yield pair
    for engine in pair:
        await engine.stop()


@pytest.fixture
async def router(start_router, engines):
    """A router that asks engine a first, then b, and so on in turn."""
    router = await start_router(
        *engines, first_byte_seconds=1.0, idle_seconds=0.3, failed_replica_seconds=0.2
    )
    await router.settled()
    return router


@pytest.fixture
def redis_server(tmp_path):
    """A Redis of this test's own."""
    with running_redis(tmp_path) as server:
        yield server
