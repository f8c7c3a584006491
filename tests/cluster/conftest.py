"""A real Redis for tests, and helpers to wait for what another task does."""

import pytest
import waiting

from cluster.protocol.wire import Keys
from cluster.store.store import connect
from tests.redis_process import running_redis


@pytest.fixture
def own_redis(tmp_path):
    """A server that a test may stop."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
async def redis(shared_redis):
    """A client of the shared server, with nothing in it."""
    client = connect(shared_redis.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def keys():
    """Names in Redis."""
    return Keys("test")


@pytest.fixture
def eventually():
    """Waits until a condition holds, and fails when it does not within some seconds."""

    return waiting.eventually
