"""What ``warmroute check`` does: agents' mirrors, Redis and routers must agree on every block.

All three change while they are read, so each replica is compared at one epoch and sequence number: a source
that has moved on is read again, for a few seconds at most.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import msgspec

from cluster.errors import StartUpError
from cluster.operate.check_bookings import Report, compare_bookings
from cluster.protocol.block_keys import unpack_keys
from cluster.protocol.wire import Keys, Lease
from cluster.settings import ClusterSettings
from cluster.store.commands import Commands, RedisClient, Script
from cluster.store.store import connect

ATTEMPTS = 20
PAUSE_SECONDS = 0.25
REQUEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class View:
    """What one source says of one replica's blocks."""

    epoch: int
    sequence: int
    keys: frozenset[int]
    reset: frozenset[int] = frozenset()
    """Blocks that operators have let all routers forget: they may be missing."""


CHANGING = View(-1, -1, frozenset())
"""Stands for the view of a source whose blocks change faster than it can say them."""


async def find_differences(settings: ClusterSettings, router_urls: Sequence[str]) -> Report:
    """Compare all sources for every replica that Redis knows, and routers' bookings with each other.

    Raises `StoreUnavailableError` without Redis, and `StartUpError` when a router refuses the token.
    """
    report = Report()
    redis = connect(settings.redis_url)
    try:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as agents,
            aiohttp.ClientSession(timeout=timeout, headers=settings.admin_headers) as routers,
        ):
            members = await Commands.of(redis).execute("ZRANGE", settings.keys.members, 0, -1)
            for replica_id in sorted(member.decode() for member in members):
                await _compare(replica_id, redis, settings.keys, agents, routers, router_urls, report)
            if not report.lines:
                report.lines.append("Redis knows no replicas.")
            await compare_bookings(routers, router_urls, report)
    finally:
        await redis.aclose()
    return report


async def _compare(
    replica_id: str,
    redis: RedisClient,
    keys: Keys,
    agents: aiohttp.ClientSession,
    routers: aiohttp.ClientSession,
    router_urls: Sequence[str],
    report: Report,
) -> None:
    views: dict[str, View | None] = {}
    capacity = 0
    for _ in range(ATTEMPTS):
        lease, stored = await _redis_view(redis, keys, replica_id)
        if lease is None:
            return
        capacity = lease.capacity_blocks
        views = {"Redis": stored}
        views["agent"] = await _http_view(agents, f"{lease.agent_url}/mirror") if lease.agent_url else None
        for url in router_urls:
            views[f"router {url}"] = await _http_view(
                routers, f"{url.rstrip('/')}/admin/replicas/{replica_id}/blocks"
            )
        if len({(view.epoch, view.sequence) for view in views.values() if view}) == 1:
            break
        await asyncio.sleep(PAUSE_SECONDS)
    _judge(replica_id, views, capacity, report)


def _judge(replica_id: str, views: dict[str, View | None], capacity: int, report: Report) -> None:
    truth = views["agent"] or views["Redis"]
    if truth is CHANGING:
        truth = views["Redis"]
    if truth is None:
        return
    lines = []
    for name, view in views.items():
        if view is None:
            lines.append(f"{replica_id}: {name} does not answer")
            continue
        if view is CHANGING:
            lines.append(f"{replica_id}: {name} has blocks that change too fast to be compared")
            continue
        missing, surplus = truth.keys - view.keys - view.reset, view.keys - truth.keys
        if missing or surplus or (view.epoch, view.sequence) != (truth.epoch, truth.sequence):
            lines.append(
                f"{replica_id}: {name} lacks {len(missing)} blocks and has {len(surplus)} too many "
                f"(at {view.epoch}-{view.sequence}, the agent at {truth.epoch}-{truth.sequence})"
            )
    if 0 < capacity < len(truth.keys):
        lines.append(f"{replica_id}: owns {len(truth.keys)} blocks, with room for {capacity}")
    for line in lines:
        report.differ(line)
    if not lines:
        sources = ", ".join(views)
        report.lines.append(
            f"{replica_id}: no difference in {len(truth.keys)} blocks at batch {truth.sequence} ({sources})"
        )


async def _redis_view(redis: RedisClient, keys: Keys, replica_id: str) -> tuple[Lease | None, View | None]:
    found = await Script(redis, "view")([keys.lease(replica_id)], [keys.owned(replica_id, 0)[:-1]])
    if found is None:
        return None, None
    epoch, sequence, lease, owned = found
    view = View(int(epoch), int(sequence), frozenset(unpack_keys(owned)))
    return msgspec.json.decode(lease, type=Lease), view


async def _http_view(session: aiohttp.ClientSession, url: str) -> View | None:
    try:
        async with session.get(url, raise_for_status=True) as response:
            answer = msgspec.json.decode(await response.read())
    except aiohttp.ClientResponseError as error:
        if error.status == 503:
            return CHANGING
        if error.status in (401, 403):
            raise StartUpError(
                f"{url} is closed ({error.status}): set WARMROUTE_ADMIN_TOKEN, or give --admin-token"
            ) from error
        return None
    except (aiohttp.ClientError, OSError):
        return None
    keys, reset = (frozenset(int(key, 16) for key in answer.get(name, ())) for name in ("keys", "reset"))
    return View(answer["epoch"], answer["sequence"], keys, reset)
