"""A real Redis for tests, and helpers to wait for what another task does."""

import asyncio
import shutil
import socket
import subprocess
import time

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from cluster.store import connect
from cluster.wire import Keys


class RedisProcess:
    """A `redis-server` without persistence on a port of its own, which can be stopped and started again."""

    def __init__(self, directory):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self.process = None

    def start(self):
        """Start empty, and wait until it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self._directory}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        self.process = subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL)
        with Redis(port=self.port, retry=Retry(NoBackoff(), 0)) as client:
            for _ in range(200):
                try:
                    client.ping()
                except RedisError:
                    time.sleep(0.02)
                else:
                    return
        raise RuntimeError("redis-server does not answer")

    def stop(self):
        """End the process that `start` began; all data is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory):
    """One server for all tests that only read and write."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on the PATH")
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path):
    """A server that a test may stop."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on the PATH")
    server = RedisProcess(tmp_path)
    server.start()
    yield server
    server.stop()


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

    async def wait(condition, seconds=5.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            await asyncio.sleep(0.01)

    return wait
