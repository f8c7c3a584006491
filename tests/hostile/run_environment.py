"""Bad surroundings: requests go on, and the index is exact again after Redis was lost."""

import asyncio
from collections.abc import Callable, Collection

from tests.hostile.steady import asking
from tests.hostile.surroundings import FAULT_SECONDS, FAULTS
from tests.hostile.system import Hostile, report_user
from tests.hostile.table import Table, progress


async def environment(
    names: Collection[str] = tuple(FAULTS), seconds: float = FAULT_SECONDS, slack: float = 1.0
) -> Table:
    """One fault after the other, each while clients ask, and in each Redis is lost and comes back empty."""
    table = Table(f"environment: Redis restarted under each of {len(names)} faults", slack)
    for name in names:
        async with FAULTS[name]() as (hostile, begin):
            await outlast(table, name, hostile, begin, seconds)
        progress("; ".join(table.lines[-6:]))
    return table


async def outlast(
    table: Table, name: str, hostile: Hostile, begin: Callable[[], None], seconds: float
) -> None:
    """Ask through the fault and through a restart of Redis."""
    redis = hostile.system.redis
    async with asking(hostile) as client:
        await asyncio.sleep(1)
        begin()
        await asyncio.sleep(seconds)
        redis.stop()
        await asyncio.sleep(1)
        await asyncio.to_thread(redis.start)
        await asyncio.sleep(1)
    exact = await hostile.seconds_until(hostile.is_exact)
    degraded = [text[:100] for text in (await hostile.health())["degraded"]]
    table.row(f"{name}: requests that failed", client.failed, 0, f"of {client.answers.total()}")
    table.note(f"{client}; /healthz: {degraded}")
    report_user(table, name, hostile.seen())
    table.row(f"{name}: index exact after the restart of Redis and the last request", exact, 5, "s")
