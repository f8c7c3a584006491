"""A whole system for one measurement, with an ordinary user beside whatever is done to it."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp

from tests.integration.system import System, eventually, free_port
from tests.tiny_model import build_tiny_model


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

    def begin(self) -> None:
        """Let the ordinary user begin."""
        command = [sys.executable, "-m", "tests.hostile.probe", str(self.port), str(self._answers)]
        self.system.start("probe", command)

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

    async def health(self) -> Any:
        """What ``/healthz`` says."""
        return await self.system.get(f"{self.url}/healthz")


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


@asynccontextmanager
async def hostile_system(
    *router_options: str, idle_engine: bool = False, **environment: str
) -> AsyncIterator[Hostile]:
    """Everything up and ready, and the user at work. An ``idle_engine`` computes nothing."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        directory = Path(name)
        model = build_tiny_model(directory / "model")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=150)) as session:
            system = System(directory, model, session)
            try:
                system.redis.start()
                if idle_engine:
                    arguments = [str(model), str(free_port()), system.redis.url]
                    system.start("engine", [sys.executable, "-m", "tests.hostile.engine", *arguments])
                else:
                    engine, _ = await system.start_engine()
                    system.start_agent(engine)
                url = await system.start_router(*router_options, **environment)
                hostile = Hostile(system, url, system.processes[-1])
                hostile.begin()
                await asyncio.sleep(2)
                hostile.seen()
                yield hostile
            finally:
                system.stop()
