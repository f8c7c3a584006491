"""A whole system for one measurement, with an ordinary user beside whatever is done to it."""

import asyncio
import math
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp

from cluster.errors import ClusterError
from cluster.operate.check import find_differences
from cluster.settings import ClusterSettings
from tests.hostile.table import Table
from tests.integration.system import System, eventually, free_port
from tests.tiny_model import build_tiny_model

ORDINARY_ADDRESS = "127.0.0.2"
"""Where the ordinary user comes from; hostile clients come from the usual 127.0.0.1."""
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the ordinary user has seen since it was last asked."""

    worst_gap_ms: float
    """Longest time for an answer of ``/healthz``."""
    worst_chat_ms: float
    failed: int
    """Requests of either kind that were not answered with 200."""
    answered: int


class Hostile:
    """Redis, engines, an agent and a router, each a process of its own, and the user's."""

    def __init__(self, system: System, router_url: str, router: "Popen[bytes]") -> None:
        self.system = system
        self.url = router_url
        self.port = int(router_url.rpartition(":")[2])
        self.router = router
        self._answers = system.directory / "answers"
        self._read = 0

    def begin(self, key: str) -> None:
        """Let the ordinary user begin, with an API key unless it is empty."""
        arguments = [str(self.port), str(self._answers), ORDINARY_ADDRESS, key]
        self.system.start("probe", [sys.executable, "-m", "tests.hostile.probe", *arguments])

    def seen(self) -> Seen:
        """What the user has seen since the last call."""
        with self._answers.open() as file:
            file.seek(self._read)
            text = file.read()
            whole = text[: text.rfind("\n") + 1]
            self._read += len(whole)
        lines = [line.split() for line in whole.splitlines()]
        times = {
            kind: [float(ms) for which, _, ms, _ in lines if which == kind] for kind in ("healthz", "chat")
        }
        return Seen(
            max(times["healthz"], default=0.0),
            max(times["chat"], default=0.0),
            sum(status != "200" for *_, status in lines),
            len(lines),
        )

    async def wait_for_user(self) -> None:
        """Until the user has been answered once more after this call, so that a stall now is seen."""
        size = self._answers.stat().st_size

        async def has_grown() -> bool:
            return os.stat(self._answers).st_size > size

        await eventually(has_grown, 150, "the ordinary user is answered", every=0.02)

    @property
    def router_mib(self) -> float:
        """Resident memory of the router."""
        return memory_mib(self.router.pid)

    @property
    def redis_mib(self) -> float:
        """Memory of Redis, by its own account."""
        return float(self.system.redis.info("used_memory")) / 2**20

    @property
    def log_mib(self) -> float:
        """Size of the router's log."""
        return sum(path.stat().st_size for path in self.system.directory.glob("router-*.log")) / 2**20

    def reset_peak(self) -> None:
        """Forget how much memory the router has had at most."""
        Path(f"/proc/{self.router.pid}/clear_refs").write_text("5")

    @property
    def router_peak_mib(self) -> float:
        """Most resident memory of the router since it was reset."""
        status = Path(f"/proc/{self.router.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    async def health(self) -> Any:
        """What ``/healthz`` says."""
        return await self.system.get(f"{self.url}/healthz")

    async def is_exact(self) -> bool:
        """Whether agents, Redis and the router agree on the blocks of every replica, and there are some."""
        settings = ClusterSettings(redis_url=f"redis://127.0.0.1:{self.system.redis.port}/0")
        report = await find_differences(settings, [self.url])
        return (
            report.agree and "no difference in" in report.lines[0] and " in 0 blocks" not in report.lines[0]
        )

    async def seconds_until(
        self, condition: Callable[[], Awaitable[bool]], limit: float = 60.0, since: float | None = None
    ) -> float:
        """How long it takes, since now or a monotonic time, until a condition holds; or infinite."""
        since = time.monotonic() if since is None else since
        while time.monotonic() - since < limit:
            with suppress(aiohttp.ClientError, ClusterError, TimeoutError):
                if await condition():
                    return time.monotonic() - since
            await asyncio.sleep(0.05)
        return math.inf


def report_user(table: Table, what: str, seen: Seen) -> None:
    """Rows of what the ordinary user has seen."""
    table.row(f"{what}: worst gap of the ordinary user's probe", seen.worst_gap_ms, 100, "ms")
    table.row(f"{what}: ordinary requests that failed", seen.failed, 0, f"of {seen.answered}")
    table.note(f"slowest ordinary chat {seen.worst_chat_ms:.0f} ms")


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


async def simulated_engine(system: System) -> None:
    """An engine with a cache, and its agent."""
    url, _ = await system.start_engine()
    system.start_agent(url)


async def idle_engine(system: System) -> None:
    """An engine that computes nothing."""
    arguments = [str(system.model), str(free_port()), system.redis.url]
    system.start("engine", [sys.executable, "-m", "tests.hostile.engine", *arguments])


@asynccontextmanager
async def hostile_system(
    *router_options: str,
    engines: Callable[[System], Awaitable[None]] = simulated_engine,
    files: int = 0,
    key: str = "",
    **environment: str,
) -> AsyncIterator[Hostile]:
    """Everything up and ready, and the user at work with a ``key``; the router may open so many ``files``."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        directory = Path(name)
        model = build_tiny_model(directory / "model")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=150)) as session:
            system = System(directory, model, session)
            try:
                system.redis.start()
                await engines(system)
                system.max_files = files
                url = await system.start_router(*router_options, **environment)
                router, system.max_files = system.processes[-1], 0
                hostile = Hostile(system, url, router)
                hostile.begin(key)
                await asyncio.sleep(2)
                hostile.seen()
                yield hostile
            finally:
                system.stop()
