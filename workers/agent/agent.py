"""The agent beside one engine: finds it, follows one incarnation of it after the other, and publishes that.

The engine side (`workers.agent.incarnation`) and the Redis side (`workers.agent.publication`) never wait
for each other: events are followed while Redis is away, and heartbeats go on while the engine is.
"""

import asyncio
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import structlog

from cluster.errors import FencedError, StartUpError
from cluster.process.tasks import Kept
from cluster.prompts.tokenizer import tokenizer_fingerprint
from cluster.protocol.wire import Lease, Load, ReplicaState
from cluster.store.commands import RedisClient
from workers.agent.alarms import Alarms
from workers.agent.incarnation import Incarnation
from workers.agent.mirror import Change
from workers.agent.publication import Difference, Publication
from workers.concurrency import growing_pauses, run_together
from workers.engines.engine import EngineClient, EngineDescription, Gauges
from workers.errors import EngineProtocolError, EngineUnavailableError, IncarnationOverError
from workers.settings import WorkerSettings

EVICTED = (
    "Redis keeps losing what is published: it needs more memory (maxmemory), "
    "and must not make room by evicting keys (maxmemory-policy noeviction)"
)

SAY_SECONDS = 10.0
"""How often the log says again that an engine does not answer."""

log = structlog.get_logger(__name__)


def default_replica_id(url: str) -> str:
    """A stable and readable id for the engine that routers reach at this address."""
    parts = urlsplit(url)
    host = (parts.hostname or "engine").replace(":", "-")
    return f"{host}-{parts.port or (443 if parts.scheme == 'https' else 80)}"


class Agent:
    """Follows one engine: `run` it until cancelled, then `close` it.

    ``agent_url`` is where `workers.agent.mirror_server` answers for this agent; the lease tells it to
    operators' tools. ``advertise_url`` is where routers reach the engine, if not where this agent does.
    """

    def __init__(
        self,
        engine_url: str,
        redis: RedisClient,
        settings: WorkerSettings,
        replica: str = "",
        agent_url: str = "",
        advertise_url: str = "",
    ) -> None:
        self._engine_url = engine_url.rstrip("/")
        self._advertised = advertise_url.rstrip("/") or self._engine_url
        self.replica = replica or default_replica_id(self._advertised)
        self._alarms = Alarms()
        self._settings = settings
        self._agent_url = agent_url
        self._incarnation: Incarnation | None = None
        self._last_known: Incarnation | None = None
        self._draining = False
        self._publication = Publication(redis, settings, self.replica, self.owned_keys, self._load)

    def owned_keys(self) -> frozenset[int]:
        """Keys of the blocks that the engine holds now."""
        return self._incarnation.mirror.owned() if self._incarnation else frozenset()

    @property
    def epoch(self) -> int:
        """The epoch in Redis; 0 before the first."""
        return self._publication.epoch

    @property
    def sequence(self) -> int:
        """Number of the last batch published in this epoch."""
        return self._publication.sequence

    @property
    def gauges(self) -> Gauges:
        """The engine's last gauges; zeros while there is no engine."""
        return self._incarnation.gauges if self._incarnation else Gauges()

    @property
    def state(self) -> ReplicaState:
        """Where the replica is in its life."""
        if self._draining:
            return ReplicaState.DRAINING
        if self._incarnation and self._incarnation.reachable:
            return ReplicaState.ASLEEP if self.gauges.asleep else ReplicaState.READY
        return ReplicaState.UNREACHABLE if self._last_known else ReplicaState.STARTING

    @property
    def lease(self) -> Lease:
        """What this agent says of its replica."""
        alarms = (EVICTED,) if self._publication.keeps_being_lost else ()
        lease = Lease(
            replica=self.replica,
            url=self._advertised,
            state=self.state,
            model="",
            labels=self._settings.labels,
            alarms=alarms + self._alarms.texts(),
            agent_url=self._agent_url,
        )
        engine = self._incarnation or self._last_known
        if engine is None:
            return lease
        found = engine.description
        return msgspec.structs.replace(
            lease,
            **found.names._asdict(),
            model_directory=found.model_directory,
            max_model_len=found.max_model_len,
            block_size=engine.block_size,
            capacity_blocks=found.gauges.capacity_blocks,
            tokenizer_fingerprint=engine.fingerprint,
            publishes_events=engine is self._incarnation and engine.believes_events,
            alarms=lease.alarms + engine.alarms.texts(),
        )

    async def verify(self) -> Difference:
        """Compare the mirror with Redis. Raises `UnsettledError` when they do not stand still long enough."""
        return await self._publication.verify()

    async def snapshot(self) -> tuple[int, int, frozenset[int]] | None:
        """Epoch, sequence and keys that belong together; None when Redis does not keep up with the engine."""
        if not await self._publication.settle():
            return None
        return self.epoch, self.sequence, self.owned_keys()

    async def run(self) -> None:
        """Follow the engine until cancelled, whatever happens to it or to Redis.

        Raises `StartUpError` when another agent has this replica's id at the start, and `FencedError` when it
        takes it later.
        """
        self._publication.begin(self.lease)
        settings = self._settings
        client = EngineClient(self._engine_url, settings.engine_api_key, settings.engine_timeout_seconds)
        async with client:
            await run_together(
                Kept(self._publication.run, final=(FencedError, StartUpError)).run(),
                Kept(partial(self._follow_engine, client)).run(),
            )

    def engine_gone(self, reason: str) -> None:
        """Tell that the engine's process has ended, before its silence shows it."""
        if self._incarnation:
            self._incarnation.end(reason)

    async def drain(self) -> None:
        """Have routers send no more requests. Returns when Redis says so, or when it cannot be told."""
        self._draining = True
        self.lease_changed()
        await self._publication.settle()

    async def close(self) -> None:
        """Delete the lease: the replica is gone. Call it after `run` has ended."""
        await self._publication.close()

    async def _follow_engine(self, client: EngineClient) -> None:
        if self._incarnation is not None:  # a mistake of ours ended it: its mirror is in doubt
            self._incarnation = None
            self.mirror_replaced()
        while True:
            found = await self._find_engine(client)
            fingerprint = await asyncio.to_thread(tokenizer_fingerprint, Path(found.model_directory))
            engine = Incarnation(client, found, fingerprint, self._settings, self)
            self._incarnation = self._last_known = engine
            self._alarms.clear("engine")
            self.mirror_replaced()
            log.info(
                "engine_discovered",
                replica=self.replica,
                model=found.names.model,
                block_size=engine.block_size,
            )
            try:
                await engine.run()
            except IncarnationOverError as over:
                log.warning("engine_lost", replica=self.replica, reason=str(over))
                self._alarms.set("engine", f"the engine is gone: {over}")
                self._incarnation = None
                self.mirror_replaced()

    async def _find_engine(self, client: EngineClient) -> EngineDescription:
        """Wait until the engine answers."""
        pauses = growing_pauses(self._settings.retry_seconds, self._settings.retry_limit_seconds)
        said = -SAY_SECONDS
        while True:
            try:
                return await client.discover()
            except (EngineUnavailableError, EngineProtocolError) as error:
                if time.monotonic() - said >= SAY_SECONDS:
                    said = time.monotonic()
                    log.warning("engine_awaited", replica=self.replica, url=client.url, reason=str(error))
                self._alarms.set("engine", f"the engine does not answer: {error}")
                self.lease_changed()
            await asyncio.sleep(next(pauses))

    def _load(self) -> Load:
        return self._incarnation.load if self._incarnation else Load()

    # What an incarnation reports

    def mirror_changed(self, change: Change) -> None:
        """Publish a change of the mirror."""
        self._publication.change(change)

    def mirror_replaced(self) -> None:
        """Open a new epoch with what the mirror holds now."""
        self._publication.begin(self.lease)

    def lease_changed(self) -> None:
        """Announce the lease if it says something new."""
        self._publication.describe(self.lease)
