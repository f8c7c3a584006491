"""One replica: an engine process and the agent beside it, alone or as a Ray Serve deployment.

Requests do not pass through it: routers reach the engine on its own port, which the lease names.
"""

import asyncio
import contextlib
import random
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from cluster.log import configure_logging
from cluster.store.store import connect
from workers.agent.agent import Agent
from workers.agent.mirror_server import serve_mirrors
from workers.concurrency import run_together
from workers.engines.commands import COMMANDS, EngineOptions, has_cpu_build
from workers.engines.supervisor import KILL_SLACK_SECONDS, EngineCommand, EngineProcess
from workers.errors import EngineStartError, WorkerError
from workers.settings import WorkerSettings

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections, and above those that Ray uses."""
IDLE_READINGS = 2
"""Readings without a request, one after the other, before a draining engine counts as idle."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """What a deployment decides about its replicas."""

    engine: str
    """One of `workers.engines.commands.COMMANDS`."""
    options: EngineOptions
    settings: WorkerSettings
    log_directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="warmroute-logs-")))
    """Nobody else can know its name beforehand, or read it."""

    @property
    def shutdown_seconds(self) -> float:
        """How long `SupervisedReplica` may take to stop."""
        return self.settings.drain_seconds + self.settings.stop_seconds + 2 * KILL_SLACK_SECONDS

    def command(self, host: str, port: int, sockets: Path) -> EngineCommand:
        """How to start the engine."""
        options = replace(self.options, on_cpu=has_cpu_build())
        return COMMANDS[self.engine](options, host, port, sockets, self.settings.engine_api_key)


class SupervisedReplica:
    """Runs an engine and its agent: `start`, ask `check` now and then, `stop`."""

    def __init__(self, options: ReplicaOptions, replica: str, host: str) -> None:
        self._options = options
        self._replica = replica
        self._host = host
        self._healthy = asyncio.Event()
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the engine; returns when it is healthy. Raises `EngineStartError`; nothing is left then."""
        self._running = asyncio.create_task(self._run())
        healthy = asyncio.create_task(self._healthy.wait())
        try:
            await asyncio.wait({self._running, healthy}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            healthy.cancel()
        self.check()

    def check(self) -> None:
        """Raise what ended the replica, if anything has."""
        if self._running is not None and self._running.done():
            error = self._running.exception()
            raise WorkerError(f"replica {self._replica} has ended: {error}") from error

    async def stop(self) -> None:
        """Drain, delete the lease, stop the engine. Harmless when repeated, and at any time."""
        self._stop.set()
        if self._running is not None:
            if not self._healthy.is_set():
                self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        """The whole life. Whatever ends it, the engine ends last."""
        settings = self._options.settings
        with tempfile.TemporaryDirectory(prefix="warmroute-") as folder:
            command = self._options.command(self._host, free_port(self._host), Path(folder))
            async with self._agent(command.url) as agent:
                engine = EngineProcess(
                    command,
                    settings,
                    self._options.log_directory / f"{self._replica}.log",
                    report=lambda text: log.info("engine_progressed", replica=self._replica, text=text),
                    on_end=agent.engine_gone,
                )
                try:
                    await run_together(agent.run(), self._keep_engine(engine), self._drain_when_told(agent))
                finally:
                    await agent.close()
                    await engine.stop()

    async def _keep_engine(self, engine: EngineProcess) -> None:
        await engine.start()
        self._healthy.set()
        await engine.keep_running()

    async def _drain_when_told(self, agent: Agent) -> None:
        await self._stop.wait()
        await agent.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.settings.drain_seconds):
                await _wait_until_idle(agent, self._options.settings.engine_poll_seconds)

    @asynccontextmanager
    async def _agent(self, url: str) -> AsyncIterator[Agent]:
        settings = self._options.settings
        redis = connect(settings.redis_url)
        try:
            async with serve_mirrors() as server:
                agent = Agent(url, redis, settings, self._replica, server.url_of(self._replica))
                server.add(agent)
                yield agent
        finally:
            await redis.aclose()


class Replica:
    """A `SupervisedReplica` as a Ray Serve deployment: wrap it with ``serve.deployment``."""

    async def __init__(self, options: ReplicaOptions) -> None:  # type: ignore[misc]  # Serve awaits it
        import ray
        from ray import serve

        configure_logging(options.settings.log_level, json=True)
        name = f"replica-{serve.get_replica_context().replica_id.unique_id}"
        is_alone = sum(node["Alive"] for node in ray.nodes()) == 1
        host = LOOPBACK if is_alone else ray.util.get_node_ip_address()
        self._replica = SupervisedReplica(options, name, host)
        await self._replica.start()

    def check_health(self) -> None:
        """Called by Serve, which replaces this actor when it raises."""
        self._replica.check()

    async def __del__(self) -> None:
        """Called by Serve when the replica shall stop."""
        if hasattr(self, "_replica"):
            await self._replica.stop()


def free_port(host: str) -> int:
    """A port that nobody listens on. Engines take it seconds later, so it is none that systems hand out."""
    for port in random.sample(PORTS, 50):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise EngineStartError(f"no free port on {host} between {PORTS.start} and {PORTS.stop}")


async def _wait_until_idle(agent: Agent, poll_seconds: float) -> None:
    idle, last = 0, agent.gauges
    while idle < IDLE_READINGS:
        await asyncio.sleep(poll_seconds / 2)
        gauges = agent.gauges
        if gauges is not last:
            last = gauges
            idle = 0 if gauges.running or gauges.waiting else idle + 1
