"""Real processes for measurements: started with the commands a user would type, on free ports, ended by id.

What a process writes goes to a file of its name in a temporary folder; when a measurement fails, the ends of
these files are shown. No process outlives the one that measures, not even after ``kill -9``.
"""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import psutil
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cluster.process.bound_child import bound_command

ROOT = Path(__file__).parents[2]
WARMROUTE = (sys.executable, "-m", "cluster.cli")
SIM_ENGINE = (sys.executable, "-m", "workers.sim.engine")
DEFAULT_MODEL = ROOT / ".warmroute/models/SmolLM2-135M-Instruct"
MODEL_NAME = "sim"

START_SECONDS = 180.0
"""Eight routers load their tokenizers at once, perhaps on one core."""
STOP_SECONDS = 15.0
FIRST_PORT, LAST_PORT = 10_000, 30_000
"""Below those that the system gives to outgoing connections, which could take one before its server does."""
PORT_ATTEMPTS = 50
LOG_TAIL = 2_000
"""Characters shown of each log when a measurement fails."""


def free_ports(count: int) -> list[int]:
    """Consecutive ports that nobody listens on now."""
    for _ in range(PORT_ATTEMPTS):
        base = secrets.randbelow(LAST_PORT - FIRST_PORT - count) + FIRST_PORT
        with ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return list(range(base, base + count))
    raise SystemExit(f"no {count} consecutive free ports")


async def eventually(
    condition: Callable[[], Awaitable[bool]], seconds: float, what: str, every: float = 0.05
) -> None:
    """Wait until a condition holds; give up with ``what`` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(every)


class Processes:
    """Everything that one measurement starts; leaving the context ends it, newest first."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warmroute-loadtest-")
        self.folder = Path(self._folder.name)
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()
        if kind is not None and kind is not KeyboardInterrupt:
            for path in sorted(self.folder.glob("*.log")):
                if text := path.read_text(errors="replace")[-LOG_TAIL:].strip():
                    sys.stderr.write(f"--- end of {path.name}\n{text}\n")
        self._folder.cleanup()

    def start(self, name: str, command: Sequence[str], **environment: str) -> "subprocess.Popen[bytes]":
        """Start a process; Ctrl-C is for the measurement alone, which then ends it."""
        self._count += 1
        with (self.folder / f"{self._count:03}-{name}.log").open("wb") as log:
            process = subprocess.Popen(
                bound_command(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                start_new_session=True,
            )
        self._running.append((name, process))
        return process

    def stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Ask a process to end, and kill it when it does not."""
        self._running = [(name, other) for name, other in self._running if other is not process]
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End everything that still runs."""
        for _, process in reversed(self._running):
            process.terminate()
        while self._running:
            self.stop(self._running[-1][1])

    def check(self) -> None:
        """Give up when a process has ended that nobody stopped."""
        for name, process in self._running:
            if process.poll() is not None:
                raise SystemExit(f"{name} has ended with exit code {process.returncode}")

    def ids(self) -> dict[str, int]:
        """Process ids by name; the second of a name is called ``name 2``."""
        ids: dict[str, int] = {}
        for name, process in self._running:
            number = 1 + sum(other == name or other.startswith(f"{name} ") for other in ids)
            ids[name if number == 1 else f"{name} {number}"] = process.pid
        return ids


@dataclass(slots=True)
class RedisServer:
    """A `redis-server` without persistence, on a port that it keeps when it is started again."""

    processes: Processes
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Redis:
        """A client that gives up soon, and connects again by itself."""
        return Redis.from_url(self.url, socket_timeout=5.0, retry=Retry(NoBackoff(), 1))

    async def start(self) -> float:
        """Start empty; returns the time (`time.time`) of the first answer."""
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.processes.folder)]
        self.process = self.processes.start("redis", [*command, "--loglevel", "warning"])
        redis = self.client()
        try:
            await eventually(lambda: _answers(redis), 10.0, "redis-server answers", every=0.002)
            return time.time()
        finally:
            await redis.aclose()

    def kill(self) -> None:
        """``kill -9``: all its data is gone."""
        assert self.process is not None, "start it first"
        self.process.kill()
        self.processes.stop(self.process)


async def _answers(redis: Redis) -> bool:
    try:
        await redis.ping()
    except (RedisError, OSError):
        return False
    return True


@dataclass(slots=True)
class System:
    """Redis, simulated engines in one process, their agent, and routers, all new."""

    processes: Processes
    redis: RedisServer
    engine_urls: list[str]
    router_urls: list[str]
    routers: "list[subprocess.Popen[bytes]]"


async def start_system(
    processes: Processes,
    session: aiohttp.ClientSession,
    model: Path,
    num_engines: int,
    num_routers: int,
    engine_options: Sequence[str] = (),
    router_options: Sequence[str] = (),
    log_length: int = 10_000,
) -> System:
    """Start all of it, and wait until every router is ready and sees every engine."""
    _check_model(model)
    redis = RedisServer(processes)
    await redis.start()
    ports = free_ports(num_engines)
    command = [*SIM_ENGINE, "--model", str(model), "--served-model-name", MODEL_NAME]
    command += ["--engines", str(num_engines), "--port", str(ports[0]), *engine_options]
    processes.start("engines", command)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    start_agent(processes, redis.url, urls, log_length)
    system = System(processes, redis, urls, [], [])
    for _ in range(num_routers):
        add_router(system, router_options)
    await wait_for_routers(system, session)
    return system


def _check_model(model: Path) -> None:
    if not model.is_dir():
        raise SystemExit(f"no model at {model}: `make serve` unpacks one there, or name another with --model")


def start_agent(
    processes: Processes, redis_url: str, engine_urls: Sequence[str], log_length: int = 10_000
) -> None:
    """One agent process for these engines, which keeps so many batches of each in Redis."""
    options = [option for url in engine_urls for option in ("--engine-url", url)]
    command = [*WARMROUTE, "agent", "--redis-url", redis_url, "--log-level", "warning"]
    processes.start("agent", [*command, *options], WARMROUTE_LOG_LENGTH=str(log_length))


def add_router(system: System, options: Sequence[str] = ()) -> str:
    """Start one more router; returns its URL, where it does not answer yet."""
    [port] = free_ports(1)
    command = [*WARMROUTE, "router", "--redis-url", system.redis.url, "--port", str(port)]
    process = system.processes.start("router", [*command, "--log-level", "warning", *options])
    system.routers.append(process)
    system.router_urls.append(f"http://127.0.0.1:{port}")
    return system.router_urls[-1]


async def wait_for_routers(system: System, session: aiohttp.ClientSession) -> None:
    """Wait until every router is ready and sees every engine ready."""
    for url in system.router_urls:

        async def sees_all(url: str = url) -> bool:
            system.processes.check()
            ready = await get_json(session, f"{url}/readyz")
            if not (ready and ready["ready"]):
                return False
            replicas = await get_json(session, f"{url}/admin/replicas")
            return bool(replicas and replicas["ready"] == len(system.engine_urls))

        await eventually(sees_all, START_SECONDS, f"the router at {url} is ready")


async def get_json(session: aiohttp.ClientSession, url: str) -> Any:
    """The JSON at a URL; None when nobody answers."""
    try:
        async with session.get(url) as response:
            return await response.json()
    except (aiohttp.ClientError, TimeoutError):
        return None


class CpuMeter:
    """CPU that processes use, as shares of one core, and the share of the whole machine that is busy."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(number) for name, number in ids.items()}
        self._before = {name: _cpu_seconds(process) for name, process in self._processes.items()}
        self._started = time.perf_counter()
        psutil.cpu_percent()

    def shares(self) -> dict[str, float]:
        """Since the meter was made: 1.0 is one core. ``machine`` is the share of all cores together."""
        seconds = time.perf_counter() - self._started
        shares = {
            name: (_cpu_seconds(process) - self._before[name]) / seconds
            for name, process in self._processes.items()
        }
        return {**shares, "machine": psutil.cpu_percent() / 100}


def _cpu_seconds(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def resident_mib(process_id: int) -> float:
    """Resident memory of one process."""
    return float(psutil.Process(process_id).memory_info().rss) / 2**20
