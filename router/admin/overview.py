"""The state of everything in one object: what the dashboard and `warmroute top` show."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol

import msgspec

from cluster.fleet.fleet import Fleet
from cluster.fleet.pace import relative_paces
from cluster.fleet.replicas import Model, Replica
from cluster.protocol.wire import ReplicaState
from policies.ring import shares_of
from router.health.health import Health
from router.health.probes import Probes
from router.history.latencies import Latency
from router.history.tally import Rates
from router.steer.steering import Steering

RECENT_SECONDS = 300.0
HOUR_SECONDS = 3600.0
RATE_SECONDS = 60.0
SAMPLE_SECONDS = 2.0
EVICTION_SAMPLES = 6
"""So evictions per second are those of the last ten seconds."""
VERSION = version("warmroute")


class Past(Protocol):
    """What became of requests: `router.history.history.History`."""

    def rates(self, replica: str, seconds: float) -> Rates:
        """Of one replica."""

    def fleet_rates(self, seconds: float) -> Rates:
        """Of all replicas."""

    def per_second(self, seconds: float) -> tuple[float, float]:
        """Requests and prompt tokens per second."""

    def ttft(self, model: str | None) -> tuple[Latency, Latency]:
        """Of warm and of cold requests."""


@dataclass(slots=True)
class _Evictions:
    """What one replica's engine has evicted so far, seen a few times."""

    epoch: int
    seen: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=EVICTION_SAMPLES))
    """Monotonic seconds, and blocks."""

    @property
    def per_second(self) -> float:
        """Blocks."""
        if len(self.seen) < 2:
            return 0.0
        (since, before), (until, after) = self.seen[0], self.seen[-1]
        return max(after - before, 0) / (until - since)


class Overview:
    """One router's view of everything. `run` watches what needs to be seen more than once."""

    def __init__(
        self, router: str, fleet: Fleet, steering: Steering, health: Health, probes: Probes, past: Past
    ) -> None:
        self._router = router
        self._fleet = fleet
        self._steering = steering
        self._health = health
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
        """Look at how much engines have evicted, at a monotonic time in seconds."""
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

    def describe(self, experiment: dict[str, Any] | None) -> dict[str, Any]:
        """The overview, with what the running experiment shows."""
        now = time.monotonic()
        self._fleet.forget_until(now)
        suspects = set(self._probes.suspects)
        self._share_rings()
        replicas = sorted(self._fleet.replicas.values(), key=lambda replica: replica.lease.replica)
        paces = self._paces(now)
        return {
            "time": time.time(),
            "version": VERSION,
            "router": self._router,
            "uptime_seconds": round(now - self._started, 1),
            "policy": self._steering.describe(),
            "experiment": experiment,
            "alarms": [{"kind": one.kind, "text": one.text} for one in self._health.degradations()],
            "fleet": self._describe_fleet(replicas),
            "replicas": [
                self._describe_replica(
                    replica, paces.get(replica, 1.0), replica.lease.replica not in suspects
                )
                for replica in replicas
            ],
            "routers": list(self._describe_routers()),
        }

    def _describe_fleet(self, replicas: list[Replica]) -> dict[str, Any]:
        fleet, past = self._fleet, self._past
        requests_per_second, tokens_per_second = past.per_second(RATE_SECONDS)
        warm, cold = past.ttft(None)
        return {
            "replicas": len(replicas),
            "ready": sum(replica.takes_requests for replica in replicas),
            "draining": sum(
                replica.drained or replica.lease.state is ReplicaState.DRAINING for replica in replicas
            ),
            "running": sum(replica.load.running for replica in replicas),
            "waiting": sum(replica.load.waiting for replica in replicas),
            "queued_tokens": sum(
                replica.queued_tokens + fleet.peers[replica.lease.replica].queued_tokens
                for replica in replicas
            ),
            "open_bookings": fleet.open_bookings,
            "held_requests": fleet.waiting_requests,
            "index_blocks": len(fleet.index),
            "requests_per_second": round(requests_per_second, 3),
            "prompt_tokens_per_second": round(tokens_per_second, 1),
            "recent": past.fleet_rates(RECENT_SECONDS),
            "hour": past.fleet_rates(HOUR_SECONDS),
            "ttft": {"warm": warm, "cold": cold},
        }

    def _describe_replica(self, replica: Replica, pace: float, reachable: bool) -> dict[str, Any]:
        lease, load = replica.lease, replica.load
        evictions = self._evictions.get(lease.replica)
        return {
            "replica": lease.replica,
            "model": lease.model,
            "url": lease.url,
            "state": lease.state,
            "epoch": replica.epoch,
            "adapters": lease.adapters,
            "alarms": lease.alarms,
            "drained": replica.drained,
            "reachable": reachable,
            "load": {
                "booked": replica.running,
                "held": replica.held,
                "queued_tokens": replica.queued_tokens,
                "active_tokens": replica.active_tokens,
                "booked_by_others": self._fleet.peers[lease.replica].running,
                "running": load.running,
                "waiting": load.waiting,
                "kv_usage": load.kv_usage,
            },
            "block_size": lease.block_size,
            "capacity_blocks": lease.capacity_blocks,
            "owned_blocks": self._fleet.index.num_owned(replica.slot),
            "stored_blocks": load.stored_blocks,
            "evicted_blocks": load.evicted_blocks,
            "evictions_per_second": round(evictions.per_second, 2) if evictions else 0.0,
            "last_event_age_seconds": load.last_event_age if load.last_event_age >= 0 else None,
            "ring_share": self._ring_shares.get(lease.replica, 0.0),
            "pace": pace,
            "seconds_per_token": replica.pace.seconds_per_token,
            "engine": {"prefix_queries": load.prefix_queries, "prefix_hits": load.prefix_hits},
            "recent": self._past.rates(lease.replica, RECENT_SECONDS),
            "hour": self._past.rates(lease.replica, HOUR_SECONDS),
        }

    def _describe_routers(self) -> Iterator[dict[str, Any]]:
        own = {replica_id: self._fleet.booked(replica_id) for replica_id in self._fleet.replicas}
        for router, booked in ((self._router, own), *sorted(self._fleet.peers.by_router().items())):
            busy = [bookings for bookings in booked.values() if bookings.running]
            yield {
                "router": router,
                "this": router == self._router,
                "running": sum(bookings.running for bookings in busy),
                "queued_tokens": sum(bookings.queued_tokens for bookings in busy),
                "active_tokens": sum(bookings.active_tokens for bookings in busy),
                "replicas": len(busy),
            }

    def _paces(self, now: float) -> dict[Replica, float]:
        """Of every replica, compared with the others of its base model."""
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
        return [model for name, model in self._fleet.models.items() if model.replicas[0].lease.model == name]
