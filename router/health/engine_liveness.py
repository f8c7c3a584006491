"""Whether engines live of which Redis has no lease: the router asks them itself.

A lease can be missing because its agent is dead or because Redis refuses writes; in both cases the engine may
well be alive, and the router is the one who needs it.
"""

import asyncio
import time
from dataclasses import dataclass

from cluster.fleet.replicas import Replica
from router.upstream.client import HEALTH_SECONDS, Upstream

ASK_SECONDS = 0.5
FAILURES = 3
"""Unanswered questions in a row after which an engine counts as dead."""
WANTED_SECONDS = 5.0
"""How long an engine is asked after somebody has last wanted to know."""
AT_ONCE = 64
"""Questions under way."""


@dataclass(slots=True)
class _Engine:
    wanted_until: float
    has_answered: bool = False
    failures: int = 0


class EngineLiveness:
    """Asks the engines that somebody wants to know of. `run` does it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._engines: dict[Replica, _Engine] = {}
        self._wanted = asyncio.Event()
        self._places = asyncio.Semaphore(AT_ONCE)

    def lives(self, replica: Replica) -> bool | None:
        """Whether its engine has answered lately; None while that is not known. Never waits."""
        wanted_until = time.monotonic() + WANTED_SECONDS
        engine = self._engines.setdefault(replica, _Engine(wanted_until))
        engine.wanted_until = wanted_until
        self._wanted.set()
        if engine.failures >= FAILURES:
            return False
        return True if engine.has_answered else None

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._wanted.wait()
            now = time.monotonic()
            self._engines = {
                one: engine for one, engine in self._engines.items() if engine.wanted_until > now
            }
            if not self._engines:
                self._wanted.clear()
            await asyncio.gather(*(self._ask(one, engine) for one, engine in self._engines.items()))
            await asyncio.sleep(ASK_SECONDS)

    async def _ask(self, replica: Replica, engine: _Engine) -> None:
        async with self._places:
            if await self._upstream.is_healthy(replica.lease.url):
                engine.has_answered, engine.failures = True, 0
                return
        engine.failures += 1
        replica.failed_until = time.monotonic() + 2 * ASK_SECONDS + HEALTH_SECONDS
