"""What the OpenAPI document says of the overview, which `router.admin.overview` makes as plain JSON."""

from typing import Any

from pydantic import BaseModel

from router.answers.general import MissTokens, PolicyAnswer


class RatesAnswer(BaseModel):
    """Hit rates of the requests of some time. Tokens are of those whose engine said what it had cached."""

    requests: int
    failures: int
    prompt_tokens: int
    available_tokens: int
    predicted_tokens: int
    delivered_tokens: int
    available: float | None
    predicted: float | None
    delivered: float | None
    misses: MissTokens
    saved_tokens: int
    saved_seconds: float


class LatencyAnswer(BaseModel):
    """Seconds to the first token; null where there was none."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


class WarmColdAnswer(BaseModel):
    """Apart, prompts of which at least half was cached."""

    warm: LatencyAnswer
    cold: LatencyAnswer


class AlarmAnswer(BaseModel):
    """One way in which the router is degraded."""

    kind: str
    text: str


class FleetAnswer(BaseModel):
    """All replicas and routers together. Rates and time to first token are those of all routers."""

    replicas: int
    ready: int
    draining: int
    running: int
    waiting: int
    queued_tokens: int
    open_bookings: int
    held_requests: int
    index_blocks: int
    requests_per_second: float
    prompt_tokens_per_second: float
    recent: RatesAnswer
    hour: RatesAnswer
    ttft: WarmColdAnswer


class LoadAnswer(BaseModel):
    """What is booked on a replica, and what its engine says."""

    booked: int
    held: int
    queued_tokens: int
    active_tokens: int
    booked_by_others: int
    running: int
    waiting: int
    kv_usage: float


class EngineAnswer(BaseModel):
    """The engine's own counters, in tokens."""

    prefix_queries: int
    prefix_hits: int


class ReplicaAnswer(BaseModel):
    """One replica."""

    replica: str
    model: str
    url: str
    state: str
    epoch: int
    adapters: list[str]
    alarms: list[str]
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
    recent: RatesAnswer
    hour: RatesAnswer


class RouterAnswer(BaseModel):
    """What one router has booked."""

    router: str
    this: bool
    running: int
    queued_tokens: int
    active_tokens: int
    replicas: int


class OverviewAnswer(BaseModel):
    """The state of everything."""

    time: float
    version: str
    router: str
    uptime_seconds: float
    policy: PolicyAnswer
    experiment: dict[str, Any] | None
    alarms: list[AlarmAnswer]
    fleet: FleetAnswer
    replicas: list[ReplicaAnswer]
    routers: list[RouterAnswer]
