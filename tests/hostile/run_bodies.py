"""Fifty kinds of bodies of four sizes: nobody else waits for them, and they leave nothing behind."""

import asyncio
import io
import time
from collections.abc import Collection

import aiohttp

from tests.hostile.bodies import KINDS, SIZES, every
from tests.hostile.system import Hostile, hostile_system, idle_engine
from tests.hostile.table import Table, progress

SECONDS_TO_SETTLE = 60
LAST = "third"


async def bodies(
    names: Collection[str] = tuple(KINDS),
    sizes: Collection[int] = SIZES,
    settle: float = SECONDS_TO_SETTLE,
    slack: float = 1.0,
) -> Table:
    """Send each of them three times, and watch what an ordinary user sees.

    The first two fill the router's caches, which have bounds; what a third leaves would be a leak.
    """
    title = f"bodies: {len(names)} kinds from {min(sizes) // 1024} to {max(sizes) // 1024} KiB"
    table = Table(title, slack)
    async with hostile_system(engines=idle_engine) as hostile:
        for time_of_sending in ("first", "second", LAST):
            await send_all(table, hostile, names, sizes, settle, time_of_sending)
    return table


async def send_all(
    table: Table,
    hostile: Hostile,
    names: Collection[str],
    sizes: Collection[int],
    settle: float,
    time_of_sending: str = LAST,
) -> None:
    """Each kind in each size, and a pause."""
    table.note(f"the {time_of_sending} time:")
    gaps: list[tuple[float, str]] = []
    base, redis, log = hostile.router_mib, hostile.redis_mib, hostile.log_mib
    peak, statuses, slowest, failed, chats = base, {}, (0.0, ""), 0, 0.0
    for name, path, size, body in every(names, sizes):
        label = f"{name}, {size / 1024:g} KiB"
        began = time.monotonic()
        status = await send(hostile, path, body)
        seconds = time.monotonic() - began
        await hostile.wait_for_user()
        seen = hostile.seen()
        progress(f"{label}: {status} in {seconds:.1f} s, worst gap {seen.worst_gap_ms:.0f} ms")
        peak = max(peak, hostile.router_mib)
        gaps.append((seen.worst_gap_ms, label))
        failed += seen.failed
        chats = max(chats, seen.worst_chat_ms)
        statuses[status] = statuses.get(status, 0) + 1
        slowest = max(slowest, (seconds, f"{label}: {status}"))
        if status >= 500 and status != 502:
            table.note(f"{label}: {status}")
    await asyncio.sleep(settle)
    gaps.sort(reverse=True)
    table.row("worst gap of the ordinary user's probe", gaps[0][0], 100, "ms")
    for gap, label in gaps[:6]:
        table.note(f"{gap:.0f} ms: {label}")
    table.row("ordinary requests that failed", failed, 0)
    table.note(f"slowest ordinary chat {chats:.0f} ms")
    table.note(
        f"answers by status: {dict(sorted(statuses.items()))}; slowest {slowest[0]:.1f} s ({slowest[1]})"
    )
    table.row("server errors", sum(count for status, count in statuses.items() if status >= 500), 0)
    table.row("router's memory, peak", peak - base, 300, "MiB more")
    more = hostile.router_mib - base
    if time_of_sending != LAST:
        table.note(f"router's memory, {settle:g} s later, with caches filled: {more:.0f} MiB more")
    else:
        table.row(f"router's memory, {settle:g} s later", more / base * 100, 10, "% more")
    table.row("Redis' memory", hostile.redis_mib - redis, 10, "MiB more")
    table.row("router's log", hostile.log_mib - log, 5, "MiB more")


async def send(hostile: Hostile, path: str, body: bytes) -> int:
    """Status of the answer; 0 when the connection ends without one."""
    try:
        async with hostile.system.session.post(
            hostile.url + path, data=io.BytesIO(body), headers={"Content-Type": "application/json"}
        ) as response:
            await response.read()
            return response.status
    except aiohttp.ClientError:
        return 0
