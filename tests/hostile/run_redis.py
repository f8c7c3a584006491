"""Everything that can happen to Redis: requests are answered, it is said, and then the index is exact."""

import asyncio
import time
from collections.abc import Collection

from tests.chaos.proxy import Link
from tests.hostile.steady import asking
from tests.hostile.system import Hostile, hostile_system, report_user, simulated_engine
from tests.hostile.table import Table, progress
from tests.integration.system import System
from tests.redis_faults import FAULTS, RedisFault

FAULT_SECONDS = 8.0
"""Leases end after 3 s, and replicas without one were dismissed 1.5 s later."""


async def redis(names: Collection[str] = tuple(FAULTS), slack: float = 1.0) -> Table:
    """One fault after the other, each while clients ask."""
    table = Table(f"redis: {len(names)} faults of {FAULT_SECONDS:g} s", slack)
    links: list[Link] = []

    async def behind_a_link(system: System) -> None:
        link = Link("redis", system.redis.port)
        links.append(link)
        await link.listen()
        system.redis.url = f"redis://127.0.0.1:{link.port}/0"
        await simulated_engine(system)

    try:
        async with hostile_system(engines=behind_a_link) as hostile:
            async with asking(hostile):
                await asyncio.sleep(1)  # so that the index is not empty
            for name in names:
                await suffer(table, hostile, links[0], name, FAULTS[name])
                progress("; ".join(table.lines[-7:]))
    finally:
        await asyncio.sleep(0.2)  # connections end by themselves
        for link in links:
            await link.close()
    return table


async def suffer(table: Table, hostile: Hostile, link: Link, name: str, fault: RedisFault) -> None:
    """One fault, and what comes after it."""

    async def is_named() -> bool:
        degraded = (await hostile.health())["degraded"]
        if not any(fault.words in text for text in degraded):
            return False
        async with hostile.system.session.get(f"{hostile.url}/metrics") as response:
            return f'warmroute_degraded{{kind="{fault.kind}"}} 1.0' in await response.text()

    async def is_over() -> bool:
        return not (await hostile.health())["degraded"]

    if await hostile.seconds_until(hostile.is_exact) > 10:
        table.note(f"{name}: the index was not exact before it")
    hostile.seen()
    async with asking(hostile) as client:
        await asyncio.sleep(0.5)
        async with fault.begin(hostile.system.redis, link):
            named = await hostile.seconds_until(is_named, FAULT_SECONDS)
            await asyncio.sleep(max(FAULT_SECONDS - named, 0))
        ended = time.monotonic()
    exact = await hostile.seconds_until(hostile.is_exact, since=ended)
    over = await hostile.seconds_until(is_over)
    table.row(f"{name}: requests that failed", client.failed, 0, f"of {client.answers.total()}")
    table.note(f"{client}; /healthz ends to name it {over:.1f} s after the index is exact")
    report_user(table, name, hostile.seen())
    table.row(f"{name}: named in /healthz and a metric after", named, 2, "s")
    table.row(f"{name}: index exact after its end", exact, 2, "s")
