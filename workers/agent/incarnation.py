"""One process of an engine, from when it is found until it is gone or proves to be another one.

Follows its KV events into a mirror and watches its health. Nothing of it outlives it: what the engine held
before a restart cannot be believed after it.
"""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from cluster.prompts.tokenizer import tokenizer_fingerprint
from cluster.protocol.block_keys import Namespace
from cluster.protocol.wire import Load
from workers.agent.alarms import Alarms
from workers.agent.mirror import Change, Mirror
from workers.concurrency import run_together, spread
from workers.engines.engine import EngineClient, EngineDescription, Gauges, ModelNames
from workers.errors import (
    EngineProtocolError,
    EngineUnavailableError,
    IncarnationOverError,
    MirrorOverflowError,
)
from workers.events.kv_events import AllBlocksCleared, EventBatch, EventSource
from workers.events.kv_stream import (
    CaughtUp,
    EngineRestarted,
    EventsLost,
    KVEventStream,
    NotAnswering,
    Outcome,
    Received,
    StreamLimits,
)
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class Listener(Protocol):
    """Who publishes what an incarnation reports."""

    def mirror_changed(self, change: Change) -> None:
        """The mirror holds other blocks."""

    def mirror_replaced(self) -> None:
        """What was published before cannot be believed: it takes a new epoch with what is held now."""

    def lease_changed(self) -> None:
        """Something that the lease says may be different now."""


class Incarnation:
    """Follows one engine process. `run` ends only by `IncarnationOverError` or by being cancelled."""

    def __init__(
        self,
        client: EngineClient,
        description: EngineDescription,
        fingerprint: str,
        settings: WorkerSettings,
        listener: Listener,
    ) -> None:
        self.description = description
        self.fingerprint = fingerprint
        self.gauges = description.gauges
        self.block_size = description.gauges.block_size
        self.reachable = True
        self._client = client
        self._settings = settings
        self.alarms = Alarms()
        self._listener = listener
        self._caught_up: set[int] = set()
        self._last_event_at: float | None = None
        self._gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.mirror = self._empty_mirror()
        self.alarms.set_for_engine(description, fingerprint)

    @property
    def believes_events(self) -> bool:
        """Whether all KV events so far have arrived, so that the mirror is what the engine holds."""
        sources = self.description.sources
        return bool(sources) and all(source.rank in self._caught_up for source in sources)

    @property
    def load(self) -> Load:
        """The last gauges."""
        now = asyncio.get_running_loop().time()
        return Load(
            running=self.gauges.running,
            waiting=self.gauges.waiting,
            kv_usage=self.gauges.kv_usage,
            stored_blocks=self.mirror.counts.stored,
            evicted_blocks=self.mirror.counts.removed,
            last_event_age=-1.0 if self._last_event_at is None else now - self._last_event_at,
            prefix_queries=self.gauges.prefix_queries,
            prefix_hits=self.gauges.prefix_hits,
        )

    def end(self, reason: str) -> None:
        """Tell that the process has ended, before its silence shows it."""
        if not self._gone.done():
            self._gone.set_result(reason)

    async def run(self) -> None:
        """Follow it until it is over."""
        follow_all = (self._follow(source) for source in self.description.sources)
        await run_together(self._watch(), self._rediscover(), self._wait_for_end(), *follow_all)

    async def _wait_for_end(self) -> None:
        raise IncarnationOverError(await self._gone)

    # Health

    async def _watch(self) -> None:
        """Read gauges and names of adapters again and again; that is the health check, too.

        An engine that publishes KV events lives: it may be too busy to answer.
        """
        failures, last_event_at = 0, self._last_event_at
        while True:
            await asyncio.sleep(spread(self._settings.engine_poll_seconds))
            try:
                gauges = await self._client.gauges()
                names = await self._client.names()
            except EngineUnavailableError as error:
                if error.refused:
                    raise IncarnationOverError(str(error)) from error
                publishes = self._last_event_at != last_event_at
                failures = 0 if publishes else failures + 1
                self._note_silence(error, failures)
            except EngineProtocolError as error:
                failures += 1
                self._note_silence(error, failures)
            else:
                failures = 0
                self._note_answer(gauges, names)
            last_event_at = self._last_event_at

    def _note_silence(self, error: EngineUnavailableError | EngineProtocolError, failures: int) -> None:
        if not failures:
            self._note_life()
        elif failures >= self._settings.engine_failures:
            self.reachable = False
            self.alarms.set("engine", f"the engine does not answer: {error}")
            self._listener.lease_changed()

    def _note_answer(self, gauges: Gauges, names: ModelNames) -> None:
        start_time, before = gauges.start_time, self.gauges
        if start_time and before.start_time not in (0.0, start_time):
            raise IncarnationOverError("its process started anew")
        if not self.reachable and not start_time:
            raise IncarnationOverError("it was away and may be another process now")
        self.gauges = gauges
        if names.model == self.description.names.model:  # else `_rediscover` decides what that means
            self.description = replace(self.description, names=names)
        if gauges.asleep != before.asleep:
            log.info("engine_fell_asleep" if gauges.asleep else "engine_woke_up", url=self._client.url)
        if gauges.cache_discarded and not before.cache_discarded:  # it says so itself only once it is awake
            self._forget_blocks(source.rank for source in self.description.sources)
        self._note_life()

    def _note_life(self) -> None:
        self.reachable = True
        self.alarms.clear("engine")
        self._listener.lease_changed()

    async def _rediscover(self) -> None:
        """Notice what may change while it runs: another model, KV events that it did not publish, tokenizer
        files that could not be read.
        """
        while True:
            await asyncio.sleep(spread(self._settings.rediscover_seconds))
            try:
                found = await self._client.discover()
            except (EngineUnavailableError, EngineProtocolError):
                continue  # _watch decides what that means
            known = self.description
            if (found.names.model, found.sources) != (known.names.model, known.sources):
                raise IncarnationOverError("it serves another model or publishes its events elsewhere")
            if not self.fingerprint and await self._read_fingerprint():
                raise IncarnationOverError("its tokenizer files can be read now")  # all keys are others

    async def _read_fingerprint(self) -> str:
        with suppress(OSError):
            return await asyncio.to_thread(tokenizer_fingerprint, Path(self.description.model_directory))
        return ""

    # KV events

    async def _follow(self, source: EventSource) -> None:
        limits = StreamLimits(
            check_seconds=self._settings.event_check_seconds,
            replay_timeout=self._settings.replay_timeout_seconds,
            queue=self._settings.event_queue,
        )
        stream = KVEventStream(source, limits)
        async with aclosing(stream.outcomes()) as outcomes:
            async for outcome in outcomes:
                self._note_outcome(outcome, source.rank)
                await asyncio.sleep(0)  # a long replay is always ready: let others run

    def _note_outcome(self, outcome: Outcome, rank: int) -> None:
        name = f"events-{rank}"
        if isinstance(outcome, Received):
            self._last_event_at = asyncio.get_running_loop().time()
            self._apply(outcome.batch, rank)
        elif isinstance(outcome, CaughtUp):
            self._caught_up.add(rank)
            self.alarms.clear(name)
            self._listener.lease_changed()
        elif isinstance(outcome, NotAnswering):
            self._caught_up.discard(rank)
            self.alarms.set(name, f"no answer from KV events at {outcome.endpoint}: routed by ring and load")
            self._listener.lease_changed()
        elif isinstance(outcome, EventsLost):
            self._lose(outcome, rank)
        elif isinstance(outcome, EngineRestarted):
            raise IncarnationOverError("its KV events count from 0 again")

    def _apply(self, batch: EventBatch, rank: int) -> None:
        try:
            change = self.mirror.apply(batch.events, rank)
            if self._takes_other_block_size():
                change = self.mirror.apply(batch.events, rank)
        except MirrorOverflowError as error:
            self.alarms.set("overflow", f"{error}: ownership started over", self._settings.alarm_seconds)
            self.mirror = self._empty_mirror()
            self._listener.mirror_replaced()
            return
        if batch.unknown:
            text = "the engine sends kinds of KV events that this version does not know"
            self.alarms.set("unknown", text, self._settings.alarm_seconds)
        self.alarms.set_for_mirror(self.mirror, self._settings.alarm_seconds)
        self._listener.mirror_changed(change)

    def _takes_other_block_size(self) -> bool:
        """The events know the block size better than the metrics, as long as nothing is published yet."""
        size = self.mirror.seen_block_size
        if not size or size == self.block_size or self.mirror.counts.stored:
            return False
        if self.block_size:
            text = f"KV events are about blocks of {size} tokens, the engine's metrics say {self.block_size}"
            self.alarms.set("block-size", f"{text}: the events count", self._settings.alarm_seconds)
        self.block_size = size
        self.mirror = self._empty_mirror()
        self._listener.mirror_replaced()
        return True

    def _lose(self, lost: EventsLost, rank: int) -> None:
        """What the engine holds now is unknown, but for what it announces from here on."""
        log.warning("events_lost", first=lost.first, last=lost.last, reason=lost.reason)
        text = f"KV events {lost.first} to {lost.last} are lost: blocks cached before are not known"
        self.alarms.set(f"lost-{rank}", text, self._settings.alarm_seconds)
        self._forget_blocks([rank])
        self._listener.lease_changed()

    def _forget_blocks(self, ranks: Iterable[int]) -> None:
        changes = [self.mirror.apply([AllBlocksCleared()], rank) for rank in ranks]
        if any(changes):
            self._listener.mirror_replaced()

    def _empty_mirror(self) -> Mirror:
        limit = self.description.gauges.capacity_blocks or self._settings.max_blocks
        return Mirror(self._root, self.block_size, limit, self._settings.max_parked_blocks)

    def _root(self, lora: str, cache_salt: str) -> bytes:
        return Namespace(self.fingerprint, self.block_size, lora, cache_salt).root()
