"""What operators ask: is it healthy, which replicas are there, how well do their caches serve."""

import asyncio
import time
from collections.abc import Mapping

import msgspec
from fastapi import APIRouter, Response

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Replica
from cluster.protocol.wire import Booked
from cluster.sync.follower import Follower
from router.admin.access import DOCUMENTED
from router.answers.listings import (
    BookedAnswer,
    BookingsAnswer,
    HealthAnswer,
    ListedReplicaAnswer,
    ReadinessAnswer,
    ReplicasAnswer,
)
from router.health.health import Health
from router.health.readiness import Readiness
from router.history.tally import NUM_COLUMNS, Rates
from router.observe.metrics import Metrics
from router.requests.tokenizers import Tokenizers
from router.steer.steering import Steering
from router.upstream.client import Upstream

NO_RATES = Rates.of([0] * NUM_COLUMNS)


def admin_routes(
    router_id: str,
    fleet: Fleet,
    follower: Follower,
    steering: Steering,
    tokenizers: Tokenizers,
    health: Health,
    upstream: Upstream,
    metrics: Metrics,
) -> APIRouter:
    """The routes for operators and for whatever watches over the router's life."""
    routes = APIRouter()
    readiness = Readiness(fleet, follower, steering, tokenizers)

    @routes.get("/healthz")
    async def healthz() -> HealthAnswer:
        """Whether the router itself lives, and in which ways it is degraded."""
        degraded = [degradation.text for degradation in health.degradations()]
        return {"status": "degraded" if degraded else "ok", "degraded": degraded}

    @routes.get("/readyz", responses={503: {"model": ReadinessAnswer}})
    async def ready(response: Response) -> ReadinessAnswer:
        """Whether requests can be served well: 200, otherwise 503 and what is missing."""
        missing = readiness.missing()
        response.status_code = 503 if missing else 200
        return {"ready": not missing, "missing": missing}

    @routes.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        metrics.refresh()
        text = await asyncio.to_thread(metrics.exposition)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/admin/replicas", response_model=ReplicasAnswer, **DOCUMENTED)
    async def replicas() -> Response:
        """Every replica: state, load, blocks, and what its cache was believed to hold and did hold."""
        metrics.refresh()
        totals = await asyncio.to_thread(metrics.replica_totals)
        ordered = sorted(fleet.replicas.values(), key=lambda replica: replica.lease.replica)
        answer: ReplicasAnswer = {
            "replicas": [_describe(replica, fleet, totals) for replica in ordered],
            "ready": sum(replica.takes_requests for replica in ordered),
            "open_bookings": fleet.open_bookings,
            "other_routers": len(fleet.peers.by_router()),
            "redis_reachable": fleet.store_reachable,
            "index_blocks": len(fleet.index),
            "resynchronisations": follower.resynchronisations,
            "tokenizer_alarms": tokenizers.alarms(),
        }
        return Response(msgspec.json.encode(answer), media_type="application/json")

    @routes.get("/admin/bookings", **DOCUMENTED)
    async def bookings() -> BookingsAnswer:
        """What this router has booked, and what it has heard of others' bookings, for `warmroute check`."""
        fleet.forget_until(time.monotonic())
        own = {replica_id: fleet.booked(replica_id) for replica_id in fleet.replicas}
        return {
            "router": router_id,
            "open_requests": upstream.open_requests,
            "waiting_requests": fleet.waiting_requests,
            "open_bookings": fleet.open_bookings,
            "replicas": _describe_bookings(own),
            "peers": {name: _describe_bookings(booked) for name, booked in fleet.peers.by_router().items()},
        }

    return routes


def _describe_bookings(booked: Mapping[str, Booked]) -> dict[str, BookedAnswer]:
    return {
        replica_id: {
            "running": booking.running,
            "queued_tokens": booking.queued_tokens,
            "active_tokens": booking.active_tokens,
            "engine_tokens": booking.engine_tokens,
        }
        for replica_id, booking in sorted(booked.items())
        if booking != Booked()
    }


def _describe(replica: Replica, fleet: Fleet, all_totals: Mapping[str, Rates]) -> ListedReplicaAnswer:
    lease, load = replica.lease, replica.load
    totals = all_totals.get(lease.replica, NO_RATES)
    return {
        "replica": lease.replica,
        "url": lease.url,
        "model": lease.model,
        "adapters": list(lease.adapters),
        "state": lease.state,
        "epoch": replica.epoch,
        "alarms": list(lease.alarms),
        "drained": replica.drained,
        "load": {
            "booked": replica.running,
            "held": replica.held,
            "queued_tokens": replica.queued_tokens,
            "active_tokens": replica.active_tokens,
            "engine_tokens": replica.engine_tokens,
            "booked_by_others": fleet.peers[lease.replica].running,
            "running": load.running,
            "waiting": load.waiting,
            "kv_usage": load.kv_usage,
        },
        "block_size": lease.block_size,
        "capacity_blocks": lease.capacity_blocks,
        "owned_blocks": fleet.index.num_owned(replica.slot),
        "stored_blocks": load.stored_blocks,
        "evicted_blocks": load.evicted_blocks,
        "last_event_age_seconds": load.last_event_age if load.last_event_age >= 0 else None,
        "requests": totals.requests,
        "failures": totals.failures,
        "prompt_tokens": totals.prompt_tokens,
        "predicted_cached_tokens": totals.predicted_tokens,
        "delivered_cached_tokens": totals.delivered_tokens,
        "hit_rate": totals.delivered,
        "engine": {"prefix_queries": load.prefix_queries, "prefix_hits": load.prefix_hits},
    }
