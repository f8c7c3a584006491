"""Runs agents for engines that somebody else started, until the process is asked to stop."""

import asyncio
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog

from cluster.errors import StartUpError
from cluster.process.collector import calm_collector
from cluster.settings import checked_url, is_loopback, masked
from cluster.store.commands import RedisClient
from cluster.store.store import connect
from workers.agent.agent import Agent, default_replica_id
from workers.agent.mirror_server import serve_mirrors
from workers.concurrency import run_together
from workers.settings import WorkerSettings

REPLICA_ID = re.compile(r"[A-Za-z0-9_.:-]{1,253}")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """One engine: where its agent reaches it, and where routers do."""

    url: str
    advertised: str
    replica: str


def engine_addresses(
    engine_urls: Sequence[str],
    advertise_urls: Sequence[str] = (),
    replica_ids: Sequence[str] = (),
    redis_is_local: bool = True,
) -> list[EngineAddress]:
    """Pair engines with what routers call them and their replicas, in order; what is not given is made from
    the engines' own URLs.

    Raises `StartUpError` when the pairs do not work out, or when routers could not tell engines apart or, on
    another machine, not reach them.
    """
    for option, given in (("--advertise-url", advertise_urls), ("--replica-id", replica_ids)):
        if given and len(given) != len(engine_urls):
            raise StartUpError(
                f"--engine-url is given {len(engine_urls)} times, {option} {len(given)} times: "
                f"give one {option} per --engine-url, in the same order, or none"
            )
    engines = [checked_url("--engine-url", url) for url in engine_urls]
    advertised = [checked_url("--advertise-url", url) for url in advertise_urls] or engines
    replicas = replica_ids or [default_replica_id(url) for url in advertised]
    addresses = list(dict.fromkeys(map(EngineAddress, engines, advertised, replicas)))
    for option, values in (
        ("--engine-url", [address.url for address in addresses]),
        ("--advertise-url", [address.advertised for address in addresses]),
        ("--replica-id", replica_ids),
    ):
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise StartUpError(f"{option} {twice} is given twice: every engine needs its own")
    by_replica: dict[str, str] = {}
    for address in addresses:
        if not REPLICA_ID.fullmatch(address.replica):
            raise StartUpError(f"--replica-id {address.replica!r}: letters, digits and . _ : - are allowed")
        if (other := by_replica.setdefault(address.replica, address.advertised)) != address.advertised:
            raise StartUpError(
                f"{other} and {address.advertised} would both be replica {address.replica}: "
                "give each engine an id of its own with --replica-id"
            )
        if not advertise_urls and not redis_is_local and _is_here_only(address.url):
            raise StartUpError(
                f"{address.url} is of this machine only, and routers may run on others, as Redis does: "
                "give the URL at which they reach it with --advertise-url"
            )
    return addresses


def _is_here_only(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return is_loopback(host) or host in ("0.0.0.0", "::")


async def run_agents(engines: Sequence[EngineAddress], settings: WorkerSettings) -> None:
    """Run one agent per engine until SIGTERM or SIGINT, then delete the leases.

    Raises `StartUpError` when another agent publishes one of the replicas, `FencedError` when it does later.
    """
    redis = connect(settings.redis_url)
    try:
        with _stop_signals() as stop:
            await serve_agents(engines, settings, redis, stop)
    finally:
        await redis.aclose()


async def serve_agents(
    engines: Sequence[EngineAddress], settings: WorkerSettings, redis: RedisClient, stop: asyncio.Event
) -> None:
    """Run one agent per engine until ``stop`` is set, then delete the leases."""
    async with serve_mirrors() as server:
        agents = []
        for engine in engines:
            url = server.url_of(engine.replica)
            agents.append(Agent(engine.url, redis, settings, engine.replica, url, engine.advertised))
            server.add(agents[-1])
        calm_collector()
        log.info(
            "agents_started",
            replicas=[agent.replica for agent in agents],
            engines=[engine.url for engine in engines],
            redis=masked(settings.redis_url),
        )
        try:
            await run_together(_wait(stop), *(agent.run() for agent in agents))
        finally:
            await asyncio.gather(*(agent.close() for agent in agents))


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


@contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
