"""Runs agents for engines that somebody else started, until the process is asked to stop."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from cluster.errors import StartUpError
from cluster.process.collector import calm_collector
from cluster.store.commands import RedisClient
from cluster.store.store import connect
from workers.agent.agent import Agent, default_replica_id
from workers.agent.mirror_server import serve_mirrors
from workers.concurrency import run_together
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """One engine: where its agent reaches it, and where routers do."""

    url: str
    advertised: str


def engine_addresses(engine_urls: Sequence[str], advertise_urls: Sequence[str]) -> list[EngineAddress]:
    """Pair engines with what routers call them, in order; without a second list they are the same.

    Raises `StartUpError` when the pairs do not work out.
    """
    if advertise_urls and len(advertise_urls) != len(engine_urls):
        raise StartUpError(
            f"--engine-url is given {len(engine_urls)} times, --advertise-url {len(advertise_urls)} times: "
            "give one --advertise-url per --engine-url, in the same order, or none"
        )
    engines = [url.rstrip("/") for url in engine_urls]
    advertised = [url.rstrip("/") for url in advertise_urls] or engines
    addresses = list(dict.fromkeys(map(EngineAddress, engines, advertised)))
    for option, urls in (
        ("--engine-url", [address.url for address in addresses]),
        ("--advertise-url", [address.advertised for address in addresses]),
    ):
        if twice := next((url for url in urls if urls.count(url) > 1), None):
            raise StartUpError(f"{option} {twice} is given twice: every engine needs its own")
    return addresses


async def run_agents(engines: Sequence[EngineAddress], settings: WorkerSettings) -> None:
    """Run one agent per engine until SIGTERM or SIGINT, then delete the leases.

    Raises `FencedError` when another agent takes over one of the replicas.
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
            replica = default_replica_id(engine.advertised)
            agents.append(
                Agent(engine.url, redis, settings, replica, server.url_of(replica), engine.advertised)
            )
            server.add(agents[-1])
        calm_collector()
        log.info("agents_started", replicas=[agent.replica for agent in agents])
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
