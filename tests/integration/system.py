"""Real processes for tests: started with the commands a user would type, ended by id."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.process_copies import Process, start_process
from tests.redis_process import RedisProcess

START_SECONDS = 150.0
STOP_SECONDS = 15.0
WARMROUTE = [sys.executable, "-m", "cluster.cli"]
SIM_ENGINE = [sys.executable, "-m", "workers.sim.engine"]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def eventually(
    condition: Callable[[], Awaitable[bool]], seconds: float, what: str, every: float = 0.1
) -> None:
    """Wait until a condition holds; fail with ``what`` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(every)


class System:
    """Redis, engines, an agent and routers of one test."""

    def __init__(self, directory: Path, model: Path, session: aiohttp.ClientSession) -> None:
        self.directory = directory
        self.model = model
        self.session = session
        self.redis = RedisProcess(directory)
        self.processes: list[Process] = []
        self.afresh = False
        """Whether to start processes as a user's shell does, without `tests.process_copies`."""
        self.output: int | None = None
        """Descriptor to which processes that start from now on write, instead of a file of their own."""
        self.max_files = 0
        """How many files processes that start from now on may open; 0: as many as this one."""

    def start(self, name: str, command: Sequence[str], **environment: str) -> Process:
        """Start a process of its own session, with its output in a file of its name."""
        if self.max_files:
            command = ["bash", "-c", f'ulimit -n {self.max_files}; exec "$0" "$@"', *command]
        with (self.directory / f"{name}-{len(self.processes)}.log").open("wb") as log:
            output = log.fileno() if self.output is None else self.output
            process = start_process(command, self.directory, output, afresh=self.afresh, **environment)
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        """Everything that the processes of that name have written."""
        return "".join(path.read_text() for path in sorted(self.directory.glob(f"{name}-*.log")))

    async def start_engine(self, port: int = 0, *options: str) -> tuple[str, Process]:
        """A simulated engine; returns its URL once it answers."""
        port = port or free_port()
        process = self.start(
            "engine",
            [
                *SIM_ENGINE,
                *("--model", str(self.model), "--served-model-name", "tiny"),
                *("--port", str(port), "--num-blocks", "2000", "--max-model-len", "8192"),
                *options,
            ],
        )
        url = f"http://127.0.0.1:{port}"
        await eventually(lambda: self.answers(f"{url}/health"), START_SECONDS, "engine healthy")
        return url, process

    def start_agent(self, *engine_urls: str, advertised: Sequence[str] = ()) -> Process:
        """One agent for all these engines; routers reach them at the ``advertised`` URLs, if given."""
        urls = [option for url in engine_urls for option in ("--engine-url", url)]
        urls += [option for url in advertised for option in ("--advertise-url", url)]
        return self.start("agent", [*WARMROUTE, "agent", "--redis-url", self.redis.url, *urls])

    async def start_router(self, *options: str, ready: bool = True, **environment: str) -> str:
        """A router; returns its URL once it is ready."""
        port = free_port()
        command = [*WARMROUTE, "router", "--redis-url", self.redis.url, "--port", str(port), *options]
        self.start("router", command, **environment)
        url = f"http://127.0.0.1:{port}"
        path = "readyz" if ready else "healthz"
        await eventually(lambda: self.answers(f"{url}/{path}"), START_SECONDS, "router ready")
        return url

    async def answers(self, url: str) -> bool:
        """Whether a GET is answered with 200."""
        try:
            async with self.session.get(url) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def get(self, url: str) -> Any:
        """The JSON at a URL."""
        async with self.session.get(url) as response:
            return await response.json()

    async def replicas(self, router: str) -> dict[str, dict[str, Any]]:
        """What a router says of each replica, by URL of the engine."""
        answer = await self.get(f"{router}/admin/replicas")
        return {replica["url"]: replica for replica in answer["replicas"]}

    def check(self, *routers: str) -> subprocess.CompletedProcess[str]:
        """The outcome of ``warmroute check``, with all that it has printed."""
        urls = [option for url in routers for option in ("--router-url", url)]
        command = [*WARMROUTE, "check", "--redis-url", self.redis.url, *urls]
        with tempfile.TemporaryFile() as output:
            code = start_process(command, self.directory, output.fileno(), afresh=self.afresh).wait(60)
            output.seek(0)
            return subprocess.CompletedProcess(command, code, output.read().decode())

    def stop(self) -> None:
        """End everything that was started, newest first."""
        for process in reversed(self.processes):
            end(process)
        self.redis.stop()


def end(process: Process) -> None:
    """Ask a process to end; kill it when it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def fill_pipe(descriptor: int) -> None:
    """Leave no room in a pipe."""
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    for size in (65_536, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(own, b"x" * size)
    os.close(own)
