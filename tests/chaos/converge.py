"""Whether agents, Redis and routers say the same of every replica, and whether all load is given back."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from redis.exceptions import RedisError

from cluster.protocol.block_keys import unpack_keys
from cluster.protocol.wire import Lease
from tests.chaos.fleet import NUM_BLOCKS, Engine, Fleet, Router
from tests.chaos.inject import KEYS

BUFFERED_BATCHES = 10_000
"""What an engine can replay."""
INCOMPLETE = ("are lost", "were never announced")
"""Alarms with which a mirror may hold less than its engine."""


@dataclass(frozen=True, slots=True)
class View:
    """What one source says of one replica's blocks."""

    epoch: int
    sequence: int
    keys: frozenset[int]


@dataclass(slots=True)
class Look:
    """One look at everything: what differs, and each replica's lease and mirror."""

    differences: list[str] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    mirrors: dict[str, View] = field(default_factory=dict)


async def look(fleet: Fleet) -> Look:
    """Compare all sources for every replica."""
    seen = Look()
    listings = await asyncio.gather(*(_json(fleet, f"{r.url}/admin/replicas") for r in fleet.routers))
    await asyncio.gather(*(_compare(fleet, engine, listings, seen) for engine in fleet.engines))
    seen.differences.sort()
    return seen


async def _compare(fleet: Fleet, engine: Engine, listings: list[Any], seen: Look) -> None:
    replica, name = engine.replica, engine.agent.name
    try:
        lease, stored = await _redis_view(fleet, replica)
    except (RedisError, OSError, TimeoutError) as error:
        seen.differences.append(f"{name}: Redis: {type(error).__name__}")
        return
    if lease is None:
        seen.differences.append(f"{name}: Redis holds no lease")
        return
    seen.leases[replica] = lease
    if lease.state != "ready" or not lease.publishes_events:
        alarms = "; ".join(lease.alarms)
        seen.differences.append(
            f"{name}: lease {lease.state}, events believed: {lease.publishes_events} ({alarms})"
        )
    for router, listing in zip(fleet.routers, listings, strict=True):
        states = {row["replica"]: row["state"] for row in listing["replicas"]} if listing else {}
        if states.get(replica) != "ready":
            seen.differences.append(f"{name}: {router.name} says {states.get(replica, 'nothing')}")
    urls = [f"{lease.agent_url}/mirror"]
    urls += [f"{router.url}/admin/replicas/{replica}/blocks" for router in fleet.routers]
    mirror, *routers = await asyncio.gather(*(_view(fleet, url) for url in urls))
    if mirror is None:
        seen.differences.append(f"{name}: the agent does not answer for its mirror")
        return
    seen.mirrors[replica] = mirror
    for source, view in zip(["Redis", *(r.name for r in fleet.routers)], [stored, *routers], strict=True):
        _judge(name, source, mirror, view, seen)


def _judge(name: str, source: str, mirror: View, view: View | None, seen: Look) -> None:
    if view is None:
        seen.differences.append(f"{name}: {source} has no view")
    elif view != mirror:
        missing, surplus = len(mirror.keys - view.keys), len(view.keys - mirror.keys)
        seen.differences.append(
            f"{name}: {source} at {view.epoch}-{view.sequence} lacks {missing}, has {surplus} too many "
            f"(agent at {mirror.epoch}-{mirror.sequence} with {len(mirror.keys)})"
        )


def untrue(fleet: Fleet, seen: Look) -> list[str]:
    """Where a mirror differs from what its engine has announced, and where more is owned than fits."""
    found = []
    for engine in fleet.engines:
        mirror, lease = seen.mirrors.get(engine.replica), seen.leases.get(engine.replica)
        if mirror is None or lease is None:
            continue
        if len(mirror.keys) > min(lease.capacity_blocks or NUM_BLOCKS, NUM_BLOCKS):
            found.append(f"{engine.agent.name}: {len(mirror.keys)} blocks, capacity {lease.capacity_blocks}")
        if not engine.shadow.complete:
            continue
        truth = engine.shadow.keys
        may_lack = any(text in alarm for alarm in lease.alarms for text in INCOMPLETE)
        if may_lack and not engine.may_lose and engine.shadow.published <= BUFFERED_BATCHES:
            found.append(f"{engine.agent.name}: lost events that its engine still has: {lease.alarms}")
        evicted, lacking = mirror.keys - truth, truth - mirror.keys
        if evicted or (lacking and not may_lack):
            found.append(
                f"{engine.agent.name}: mirror lacks {len(lacking)} of the engine's {len(truth)} blocks, "
                f"has {len(evicted)} too many"
            )
    return found


async def booked(fleet: Fleet) -> list[str]:
    """What is still booked, in every router and in what routers have heard of each other."""
    found = []
    for router in fleet.routers:
        found += await _booked_in(fleet, router)
    return found


async def _booked_in(fleet: Fleet, router: Router) -> list[str]:
    found = []
    listing = await _json(fleet, f"{router.url}/admin/replicas")
    if listing is None:
        return [f"{router.name} does not answer"]
    if listing["open_bookings"]:
        found.append(f"{router.name}: {listing['open_bookings']} open bookings")
    for row in listing["replicas"]:
        if any(row["load"][gauge] for gauge in ("booked", "queued_tokens", "active_tokens")):
            found.append(f"{router.name}: on {row['replica']} {row['load']}")
    answer = await _json(fleet, f"{router.url}/admin/bookings")
    if answer is None:
        return found
    if answer["open_requests"] or answer["open_bookings"]:
        found.append(f"{router.name}: {answer['open_requests']} requests, {answer['open_bookings']} bookings")
    views = {"itself": answer["replicas"], **answer["peers"]}
    for peer, replicas in views.items():
        found += [
            f"{router.name}: {peer} on {replica}: {load}"
            for replica, load in replicas.items()
            if any(load.values())
        ]
    return found


async def _redis_view(fleet: Fleet, replica: str) -> tuple[Lease | None, View | None]:
    expected: Any = await fleet.redis.hget(KEYS.lease(replica), "epoch")
    if expected is None:
        return None, None
    transaction = fleet.redis.pipeline(transaction=True)
    transaction.hmget(KEYS.lease(replica), ["epoch", "sequence", "lease"])
    transaction.smembers(KEYS.owned(replica, int(expected)))
    (epoch, sequence, lease), members = await transaction.execute()
    if epoch is None:
        return None, None
    view = View(int(epoch), int(sequence), frozenset(unpack_keys(b"".join(members))))
    return msgspec.json.decode(lease, type=Lease), view if epoch == expected else None


async def _view(fleet: Fleet, url: str) -> View | None:
    answer = await _json(fleet, url)
    if answer is None:
        return None
    return View(answer["epoch"], answer["sequence"], frozenset(int(key, 16) for key in answer["keys"]))


async def _json(fleet: Fleet, url: str) -> Any:
    """The JSON at a URL; None when there is none."""
    try:
        async with fleet.session.get(url) as response:
            return msgspec.json.decode(await response.read()) if response.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError):
        return None
