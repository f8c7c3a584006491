"""The state of everything in one object: what the dashboard and `warmroute top` show."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from typing import Any

import msgspec

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Model, Replica, relative_paces
from cluster.protocol.wire import ReplicaState
from policies.ring import shares_of
from router.answers import Answer
from router.health.alarms import Alarm, AlarmLog
from router.health.health import Health
from router.health.probes import Probes
from router.history.history import History
from router.history.latencies import WarmCold
from router.history.tallies import Rates
from router.steer.steering import PolicyAnswer, Steering

RECENT_SECONDS = 300.0
HOUR_SECONDS = 3600.0
RATE_SECONDS = 60.0
SAMPLE_SECONDS = 2.0
SHOWN_PAST = 20
EVICTION_SAMPLES = 6
"""How many samples are kept: evictions per second are those of the last ten seconds."""
VERSION = version("warmroute")


class FleetAnswer(msgspec.Struct, kw_only=True):
    """All replicas and routers together. Rates and time to first token are those of all routers."""

    replicas: int
    ready: int
    draining: int
    running: int
    waiting: int
    queued_tokens: int
    open_bookings: int
    held_requests: int
    paused_requests: int
    """Of those, such as wait for room in KV memory; what follows concerns the same."""
    programs: int
    blocks_wanted_again: int
    index_blocks: int
    requests_per_second: float
    prompt_tokens_per_second: float
    recent: Rates
    hour: Rates
    ttft: WarmCold


class LoadAnswer(msgspec.Struct, kw_only=True):
    """What is booked on a replica, and what its engine reports."""

    booked: int
    held: int
    queued_tokens: int
    active_tokens: int
    engine_tokens: int
    booked_by_others: int
    running: int
    waiting: int
    kv_usage: float


class EngineAnswer(msgspec.Struct, kw_only=True):
    """The engine's own counters, in tokens."""

    prefix_queries: int
    prefix_hits: int


class ReplicaAnswer(msgspec.Struct, kw_only=True):
    """One replica."""

    replica: str
    model: str
    url: str
    state: str
    epoch: int
    adapters: tuple[str, ...]
    alarms: tuple[str, ...]
    drained: bool
    reachable: bool
    load: LoadAnswer
    block_size: int
    capacity_blocks: int
    owned_blocks: int
    stored_blocks: int
    evicted_blocks: int
    evictions_per_second: float
    last_event_age_seconds: float | None
    ring_share: float
    pace: float
    seconds_per_token: float
    engine: EngineAnswer
    recent: Rates
    hour: Rates


class RouterAnswer(msgspec.Struct, kw_only=True):
    """What one router has booked."""

    router: str
    this: bool
    running: int
    queued_tokens: int
    active_tokens: int
    replicas: int


class OverviewAnswer(Answer):
    """The state of everything."""

    time: float
    version: str
    router: str
    uptime_seconds: float
    policy: PolicyAnswer
    experiment: dict[str, Any] | None
    alarms: list[Alarm]
    past_alarms: list[Alarm]
    """Those that are over since this router started, the last first."""
    fleet: FleetAnswer
    replicas: list[ReplicaAnswer]
    routers: list[RouterAnswer]


@dataclass(slots=True)
class _Evictions:
    """What one replica's engine has evicted so far, seen a few times."""

    epoch: int
    seen: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=EVICTION_SAMPLES))
    """Blocks evicted so far, each with when it was seen in monotonic seconds."""

    @property
    def per_second(self) -> float:
        """Blocks evicted per second."""
        if len(self.seen) < 2:
            return 0.0
        (since, before), (until, after) = self.seen[0], self.seen[-1]
        return max(after - before, 0) / (until - since)


class Overview:
    """One router's view of everything. `run` watches what needs to be seen more than once."""

    def __init__(
        self, router: str, fleet: Fleet, steering: Steering, health: Health, probes: Probes, past: History
    ) -> None:
        self._router = router
        self._fleet = fleet
        self._steering = steering
        self._alarms = AlarmLog(health, fleet)
        self._probes = probes
        self._past = past
        self._started = time.monotonic()
        self._evictions: dict[str, _Evictions] = {}
        self._models: dict[str, Model] = {}
        self._ring_shares: dict[str, float] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            self.sample(time.monotonic())
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self, now: float) -> None:
        """Look at alarms, and at how much engines have evicted, at a monotonic time in seconds."""
        self._alarms.look()
        known, self._evictions = self._evictions, {}
        for replica_id, replica in self._fleet.replicas.items():
            evictions = known.get(replica_id)
            if evictions is None or evictions.epoch != replica.epoch:
                evictions = _Evictions(replica.epoch)
            evictions.seen.append((now, replica.load.evicted_blocks))
            self._evictions[replica_id] = evictions

    async def encoded(self) -> bytes:
        """The overview as JSON."""
        experiment = await self._steering.report()
        return msgspec.json.encode(self.describe(experiment))

    def describe(self, experiment: dict[str, Any] | None) -> OverviewAnswer:
        """The overview, with what the running experiment shows."""
        replicas = self.replicas()
        return OverviewAnswer(
            time=time.time(),
            version=VERSION,
            router=self._router,
            uptime_seconds=round(time.monotonic() - self._started, 1),
            policy=self._steering.describe(),
            experiment=experiment,
            alarms=self._alarms.look(),
            past_alarms=list(islice(self._alarms.past, SHOWN_PAST)),
            fleet=self._describe_fleet(),
            replicas=replicas,
            routers=list(self._describe_routers()),
        )

    def replicas(self) -> list[ReplicaAnswer]:
        """All replicas, by id."""
        now = time.monotonic()
        self._fleet.forget_until(now)
        suspects = set(self._probes.suspects)
        self._share_rings()
        paces = self._paces(now)
        return [
            self._describe_replica(replica, paces.get(replica, 1.0), replica_id not in suspects)
            for replica_id, replica in sorted(self._fleet.replicas.items())
        ]

    def _describe_fleet(self) -> FleetAnswer:
        fleet, past = self._fleet, self._past
        replicas = fleet.replicas.values()
        suspects = set(self._probes.suspects)
        requests_per_second, tokens_per_second = past.per_second(RATE_SECONDS)
        return FleetAnswer(
            replicas=len(replicas),
            ready=sum(
                replica.takes_requests and replica.lease.replica not in suspects for replica in replicas
            ),
            draining=sum(
                replica.drained or replica.lease.state is ReplicaState.DRAINING for replica in replicas
            ),
            running=sum(replica.load.running for replica in replicas),
            waiting=sum(replica.load.waiting for replica in replicas),
            queued_tokens=sum(
                replica.queued_tokens + fleet.peers[replica.lease.replica].queued_tokens
                for replica in replicas
            ),
            open_bookings=fleet.open_bookings,
            held_requests=fleet.waiting_requests,
            paused_requests=len(fleet.programs.pauses),
            programs=len(fleet.programs),
            blocks_wanted_again=fleet.index.evicted.num_wanted_again,
            index_blocks=len(fleet.index),
            requests_per_second=round(requests_per_second, 3),
            prompt_tokens_per_second=round(tokens_per_second, 1),
            recent=past.fleet_rates(RECENT_SECONDS),
            hour=past.fleet_rates(HOUR_SECONDS),
            ttft=past.ttft(None),
        )

    def _describe_replica(self, replica: Replica, pace: float, reachable: bool) -> ReplicaAnswer:
        lease, load = replica.lease, replica.load
        evictions = self._evictions.get(lease.replica)
        return ReplicaAnswer(
            replica=lease.replica,
            model=lease.model,
            url=lease.url,
            state=lease.state,
            epoch=replica.epoch,
            adapters=lease.adapters,
            alarms=lease.alarms,
            drained=replica.drained,
            reachable=reachable,
            load=LoadAnswer(
                booked=replica.running,
                held=replica.held,
                queued_tokens=replica.queued_tokens,
                active_tokens=replica.active_tokens,
                engine_tokens=replica.engine_tokens,
                booked_by_others=self._fleet.peers[lease.replica].running,
                running=load.running,
                waiting=load.waiting,
                kv_usage=load.kv_usage,
            ),
            block_size=lease.block_size,
            capacity_blocks=lease.capacity_blocks,
            owned_blocks=self._fleet.index.num_owned(replica.slot),
            stored_blocks=load.stored_blocks,
            evicted_blocks=load.evicted_blocks,
            evictions_per_second=round(evictions.per_second, 2) if evictions else 0.0,
            last_event_age_seconds=load.last_event_age if load.last_event_age >= 0 else None,
            ring_share=self._ring_shares.get(lease.replica, 0.0),
            pace=pace,
            seconds_per_token=replica.pace.seconds_per_token,
            engine=EngineAnswer(prefix_queries=load.prefix_queries, prefix_hits=load.prefix_hits),
            recent=self._past.rates(lease.replica, RECENT_SECONDS),
            hour=self._past.rates(lease.replica, HOUR_SECONDS),
        )

    def _describe_routers(self) -> Iterator[RouterAnswer]:
        own = {replica_id: self._fleet.booked(replica_id) for replica_id in self._fleet.replicas}
        for router, booked in ((self._router, own), *sorted(self._fleet.peers.by_router().items())):
            busy = [bookings for bookings in booked.values() if bookings.running]
            yield RouterAnswer(
                router=router,
                this=router == self._router,
                running=sum(bookings.running for bookings in busy),
                queued_tokens=sum(bookings.queued_tokens for bookings in busy),
                active_tokens=sum(bookings.active_tokens for bookings in busy),
                replicas=len(busy),
            )

    def _paces(self, now: float) -> dict[Replica, float]:
        """The pace of every replica, compared with the others of its base model."""
        paces: dict[Replica, float] = {}
        for model in self._base_models():
            relative = relative_paces([replica.pace for replica in model.replicas], now)
            paces.update(zip(model.replicas, relative.round(3).tolist(), strict=True))
        return paces

    def _share_rings(self) -> None:
        """Shares change with the set of replicas, of which the fleet then makes its models anew."""
        if self._models is not self._fleet.models:
            self._models = self._fleet.models
            self._ring_shares = {
                replica_id: round(share, 4)
                for model in self._base_models()
                for replica_id, share in zip(model.ids, shares_of(model.ids), strict=True)
            }

    def _base_models(self) -> list[Model]:
        """Models that have all replicas between them."""
        models = self._fleet.models
        bases = dict.fromkeys(replica.lease.base for replica in self._fleet.replicas.values())
        return [models[base] for base in bases if base]
