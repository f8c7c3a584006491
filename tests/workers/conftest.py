"""A real Redis, and an engine under the test's control."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import redis
from redis.asyncio import Redis

from tests.redis_process import RedisProcess, running_redis
from tests.workers.fake_engine import FakeEngine
from workers.settings import WorkerSettings


@pytest.fixture(scope="session")
def shared_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One server for all tests; take `redis_server`."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(shared_redis_server: RedisProcess) -> Iterator[RedisProcess]:
    """A running and empty Redis; a test may stop and start it."""
    yield shared_redis_server
    shared_redis_server.stop()
    shared_redis_server.start()


@pytest_asyncio.fixture
async def store(redis_server: RedisProcess):
    """A client of the real Redis, as `cluster.store.store.connect` makes it."""
    client = Redis.from_url(redis_server.url, socket_timeout=1.0, socket_connect_timeout=1.0)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def engine(tiny_model: Path):
    """An engine that listens."""
    fake = FakeEngine(tiny_model)
    await fake.start()
    yield fake
    await fake.close()


@pytest.fixture
def settings() -> WorkerSettings:
    """Everything quick."""
    return WorkerSettings(
        heartbeat_seconds=0.1,
        lease_seconds=1.0,
        engine_poll_seconds=0.05,
        engine_timeout_seconds=0.3,
        engine_failures=2,
        rediscover_seconds=0.2,
        event_check_seconds=0.2,
        replay_timeout_seconds=0.3,
        retry_seconds=0.02,
        retry_limit_seconds=0.1,
    )


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait until a condition (plain or awaitable) holds; fails after five seconds."""

    async def wait(condition: Callable[[], object], seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            value = None
            with contextlib.suppress(redis.ConnectionError):  # a test may have stopped it
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
            if value:
                return
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.01)

    return wait
