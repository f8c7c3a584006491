"""A real Redis for tests, which can be stopped and started again."""

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry


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
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "no",
            "dir": self._directory,
        }
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


@contextmanager
def running_redis(directory):
    """A Redis for as long as the context is open; the test is skipped where there is no `redis-server`."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on the PATH")
    server = RedisProcess(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()
