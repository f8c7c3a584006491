"""Runs agents for engines that somebody else started, until the process is asked to stop."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from redis.asyncio import Redis

from cluster.store import connect
from workers.agent import Agent, default_replica_id
from workers.concurrency import run_together
from workers.mirror_server import serve_mirrors
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


async def run_agents(engine_urls: Sequence[str], settings: WorkerSettings) -> None:
    """Run one agent per engine until SIGTERM or SIGINT, then delete the leases.

    Raises `FencedError` when another agent takes over one of the replicas.
    """
    redis = connect(settings.redis_url)
    try:
        with _stop_signals() as stop:
            await serve_agents(engine_urls, settings, redis, stop)
    finally:
        await redis.aclose()


async def serve_agents(
    engine_urls: Sequence[str], settings: WorkerSettings, redis: Redis, stop: asyncio.Event
) -> None:
    """Run one agent per engine until ``stop`` is set, then delete the leases."""
    async with serve_mirrors() as server:
        agents = []
        for url in dict.fromkeys(url.rstrip("/") for url in engine_urls):
            replica = default_replica_id(url)
            agents.append(Agent(url, redis, settings, replica, server.url_of(replica)))
            server.add(agents[-1])
        log.info("agents run", replicas=[agent.replica for agent in agents])
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
