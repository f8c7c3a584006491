"""A real system for the dashboard's tests: Redis, simulated engines, an agent and a router, with traffic."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.system import START_SECONDS, WARMROUTE, System, eventually, free_port

SECRET_WORD = "marzipan"
"""Stands in every prompt, and may stand nowhere on the page."""


class LiveSystem(System):
    """A system that a page shows."""

    router = ""
    engines: tuple[str, ...] = ()
    token = ""

    async def start_guarded_router(self, token: str) -> str:
        """A router whose admin API asks for a token."""
        url = f"http://127.0.0.1:{free_port()}"
        command = [*WARMROUTE, "router", "--redis-url", self.redis.url, "--port", url.rpartition(":")[2]]
        self.start("router", command, WARMROUTE_ADMIN_TOKEN=token)
        await eventually(lambda: self.answers(f"{url}/readyz"), START_SECONDS, "router ready")
        return url

    async def turn(self, topic: str, length: int = 1, system: str = "") -> tuple[str, str]:
        """One turn of a conversation; returns the request's id and the replica that served it."""
        question = {"role": "user", "content": f"{SECRET_WORD} {topic}: " + "why " * 120}
        messages = [{"role": "system", "content": system}] * bool(system) + [question]
        for _ in range(length - 1):
            messages += [{"role": "assistant", "content": "because " * 20}, question]
        body = {"model": "tiny", "messages": messages, "stream": True, "max_tokens": 2}
        async with self.session.post(f"{self.router}/v1/chat/completions", json=body) as response:
            assert response.status == 200, await response.text()
            await response.read()
            return response.headers["x-request-id"], response.headers["x-warmroute-replica"]

    async def talk(self, conversations: int, turns: int) -> None:
        """Several conversations, so that caches have something to show."""
        for number in range(conversations):
            for length in range(1, turns + 1):
                await self.turn(f"topic {number}", length)

    async def admin(self, path: str) -> Any:
        """The JSON at a path below /admin/."""
        return await self.get(f"{self.router}/admin/{path}")

    async def engine_counters(self, engine: str) -> tuple[float, float]:
        """Prompt tokens that an engine was asked for and that it had cached, by its own counters."""
        async with self.session.get(f"{engine}/metrics") as response:
            text = await response.text()
        totals = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return totals["vllm:prefix_cache_queries_total"], totals["vllm:prefix_cache_hits_total"]


@asynccontextmanager
async def live_system(directory: Path, model: Path, replicas: int) -> AsyncIterator[LiveSystem]:
    """A running system; everything ends with the block."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        system = LiveSystem(directory, model, session)
        try:
            system.redis.start()
            engines = await asyncio.gather(*(system.start_engine() for _ in range(replicas)))
            system.engines = tuple(url for url, _ in engines)
            if engines:
                system.start_agent(*system.engines)
            system.router = await system.start_router(ready=bool(engines))
            yield system
        finally:
            system.stop()


def percent(rate: float) -> str:
    """A rate as the page writes it."""
    text = f"{rate * 100:.1f}%"
    return "100%" if text == "100.0%" else text
