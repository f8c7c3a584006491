"""Routers and agents whose log cannot be written serve on, stay exact, and say so."""

import asyncio
import os

import pytest

from tests.integration.system import System, eventually, fill_pipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


async def ask(system: System, router: str, number: int) -> int:
    """The status of a request with a prompt of its own."""
    body = {
        "model": "tiny",
        "max_tokens": 2,
        "stream": bool(number % 2),
        "messages": [{"role": "user", "content": f"{number} " + "ordinary words of a user " * 20}],
    }
    async with system.session.post(f"{router}/v1/chat/completions", json=body) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize(
    ("place", "workers"), [("full disk", "1"), ("nobody reads", "1"), ("nobody reads", "2")]
)
async def test_log_that_cannot_be_written_harms_nothing(system: System, place: str, workers: str) -> None:
    """Requests are answered, `/healthz` and a metric say so, and after a loss of Redis all is exact again."""
    system.afresh = workers != "1"  # a supervisor of workers
    url, _ = await system.start_engine()
    reader = os.open("/dev/null", os.O_RDONLY)
    if place == "full disk":
        system.output = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, system.output = os.pipe()
    try:
        system.start_agent(url)
        router = await system.start_router("--workers", workers)
        if place == "nobody reads":
            fill_pipe(system.output)
        async with asyncio.timeout(60):
            statuses = [await ask(system, router, number) for number in range(150)]
        assert set(statuses) == {200}
        health = await system.get(f"{router}/healthz")
        assert any(text.startswith("the log cannot be written") for text in health["degraded"]), health
        async with system.session.get(f"{router}/metrics") as response:
            metrics = await response.text()
        [dropped] = [line for line in metrics.splitlines() if line.startswith("warmroute_log_lines_dropped ")]
        assert float(dropped.split()[1]) > 0

        system.redis.stop()
        await asyncio.sleep(1.0)
        await asyncio.to_thread(system.redis.start)
        assert await ask(system, router, 1000) == 200

        async def agree() -> bool:
            return (await asyncio.to_thread(system.check, router)).returncode == 0

        await eventually(agree, 30, "agent, Redis and router agree")
        [replica] = (await system.replicas(router)).values()
        assert replica["owned_blocks"] > 100
    finally:
        system.stop()
        os.close(reader)
        os.close(system.output)
