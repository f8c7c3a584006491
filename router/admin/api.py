"""What operators ask: is it healthy, which replicas are there, how well do their caches serve."""

import asyncio
import time
from collections.abc import Mapping
from typing import Literal

import msgspec
from fastapi import APIRouter, Response

from cluster.fleet.fleet import Fleet
from cluster.protocol.wire import Booked
from cluster.sync.follower import Follower
from router.admin.access import DOCUMENTED
from router.admin.overview import Overview, ReplicaAnswer
from router.answers import Answer, JsonResponse, answers, described
from router.health.health import Health
from router.health.readiness import Readiness
from router.history.tallies import NUM_COLUMNS, Rates
from router.observe.metrics import Metrics
from router.requests.tokenizers import Tokenizers
from router.upstream.client import Upstream

NO_RATES = Rates.of([0] * NUM_COLUMNS)


class ListedReplica(ReplicaAnswer):
    """One replica, and what this router, with all its workers, has counted since it started."""

    requests: int
    failures: int
    prompt_tokens: int
    predicted_cached_tokens: int
    delivered_cached_tokens: int
    hit_rate: float | None


class ReplicasAnswer(Answer):
    """All replicas, by id, and what else `warmroute status` shows."""

    replicas: list[ListedReplica]
    ready: int
    open_bookings: int
    other_routers: int
    redis_reachable: bool
    index_blocks: int
    resynchronisations: int
    tokenizer_alarms: dict[str, str]
    requests_by_path: dict[str, int]


class BookedAnswer(msgspec.Struct):
    """What one router has booked on one replica."""

    running: int
    queued_tokens: int
    active_tokens: int
    engine_tokens: int


class BookingsAnswer(Answer):
    """Bookings by replica, and by router and replica."""

    router: str
    open_requests: int
    waiting_requests: int
    open_bookings: int
    replicas: dict[str, BookedAnswer]
    peers: dict[str, dict[str, BookedAnswer]]


class HealthAnswer(Answer):
    """Whether the router lives, and in which ways it is degraded."""

    status: Literal["ok", "degraded"]
    degraded: list[str]


class ReadinessAnswer(Answer):
    """Whether requests can be served well, and what is missing."""

    ready: bool
    missing: list[str]


def admin_routes(
    router_id: str,
    fleet: Fleet,
    follower: Follower,
    tokenizers: Tokenizers,
    health: Health,
    readiness: Readiness,
    upstream: Upstream,
    metrics: Metrics,
    overview: Overview,
) -> APIRouter:
    """The routes for operators and for whatever watches over the router's life."""
    routes, admin = APIRouter(), APIRouter(**DOCUMENTED)

    @routes.get("/healthz", **answers(HealthAnswer))
    async def healthz() -> JsonResponse:
        """Whether the router itself lives, and in which ways it is degraded."""
        degraded = [degradation.text for degradation in health.degradations()]
        status: Literal["ok", "degraded"] = "degraded" if degraded else "ok"
        return JsonResponse(HealthAnswer(status=status, degraded=degraded))

    @routes.get("/readyz", **answers(ReadinessAnswer, {503: described(ReadinessAnswer, "Not yet")}))
    async def ready() -> JsonResponse:
        """Whether requests can be served well: 200, otherwise 503 and what is missing."""
        missing = readiness.missing()
        answer = ReadinessAnswer(ready=not missing, missing=missing)
        return JsonResponse(answer, status_code=503 if missing else 200)

    @routes.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        metrics.refresh()
        text = await asyncio.to_thread(metrics.exposition)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @admin.get("/admin/replicas", **answers(ReplicasAnswer))
    async def replicas() -> JsonResponse:
        """Every replica: state, load, blocks, and what its cache was believed to hold and did hold."""
        metrics.refresh()
        totals = await asyncio.to_thread(metrics.replica_totals)
        answer = ReplicasAnswer(
            replicas=[
                _with_totals(replica, totals.get(replica.replica, NO_RATES))
                for replica in overview.replicas()
            ],
            ready=sum(replica.takes_requests for replica in fleet.replicas.values()),
            open_bookings=fleet.open_bookings,
            other_routers=len(fleet.peers.by_router()),
            redis_reachable=fleet.store_reachable,
            index_blocks=len(fleet.index),
            resynchronisations=follower.resynchronisations,
            tokenizer_alarms=tokenizers.alarms(),
            requests_by_path=dict(await asyncio.to_thread(metrics.requests_by_path)),
        )
        return JsonResponse(answer)

    @admin.get("/admin/bookings", **answers(BookingsAnswer))
    async def bookings() -> JsonResponse:
        """What this router has booked, and what it knows of others' bookings, for `warmroute check`."""
        fleet.forget_until(time.monotonic())
        own = {replica_id: fleet.booked(replica_id) for replica_id in fleet.replicas}
        answer = BookingsAnswer(
            router=router_id,
            open_requests=upstream.open_requests,
            waiting_requests=fleet.waiting_requests,
            open_bookings=fleet.open_bookings,
            replicas=_describe_bookings(own),
            peers={name: _describe_bookings(booked) for name, booked in fleet.peers.by_router().items()},
        )
        return JsonResponse(answer)

    routes.routes.extend(admin.routes)
    return routes


def _describe_bookings(booked: Mapping[str, Booked]) -> dict[str, BookedAnswer]:
    return {
        replica_id: BookedAnswer(**msgspec.structs.asdict(booking))
        for replica_id, booking in sorted(booked.items())
        if booking != Booked()
    }


def _with_totals(replica: ReplicaAnswer, totals: Rates) -> ListedReplica:
    return ListedReplica(
        **msgspec.structs.asdict(replica),
        requests=totals.requests,
        failures=totals.failures,
        prompt_tokens=totals.prompt_tokens,
        predicted_cached_tokens=totals.predicted_tokens,
        delivered_cached_tokens=totals.delivered_tokens,
        hit_rate=totals.delivered,
    )
