"""The JSON of what the command line asks: replicas, bookings, blocks; and of health and readiness."""

from typing import Literal

from typing_extensions import TypedDict  # pydantic cannot read that of Python before 3.12


class ListedLoadAnswer(TypedDict):
    """What is booked on a replica, and what its engine says."""

    booked: int
    held: int
    queued_tokens: int
    active_tokens: int
    engine_tokens: int
    booked_by_others: int
    running: int
    waiting: int
    kv_usage: float


class ListedEngineAnswer(TypedDict):
    """The engine's own counters, in tokens."""

    prefix_queries: int
    prefix_hits: int


class ListedReplicaAnswer(TypedDict):
    """One replica, and what this router, with all its workers, has counted since it started."""

    replica: str
    url: str
    model: str
    adapters: list[str]
    state: str
    epoch: int
    alarms: list[str]
    drained: bool
    load: ListedLoadAnswer
    block_size: int
    capacity_blocks: int
    owned_blocks: int
    stored_blocks: int
    evicted_blocks: int
    last_event_age_seconds: float | None
    requests: int
    failures: int
    prompt_tokens: int
    predicted_cached_tokens: int
    delivered_cached_tokens: int
    hit_rate: float | None
    engine: ListedEngineAnswer


class ReplicasAnswer(TypedDict):
    """All replicas, by id, and what else `warmroute status` shows."""

    replicas: list[ListedReplicaAnswer]
    ready: int
    open_bookings: int
    other_routers: int
    redis_reachable: bool
    index_blocks: int
    resynchronisations: int
    tokenizer_alarms: dict[str, str]


class BookedAnswer(TypedDict):
    """What one router has booked on one replica."""

    running: int
    queued_tokens: int
    active_tokens: int
    engine_tokens: int


class BookingsAnswer(TypedDict):
    """Bookings by replica, and by router and replica."""

    router: str
    open_requests: int
    waiting_requests: int
    open_bookings: int
    replicas: dict[str, BookedAnswer]
    peers: dict[str, dict[str, BookedAnswer]]


class BlocksAnswer(TypedDict):
    """Keys of blocks as 16 hexadecimal digits."""

    epoch: int
    sequence: int
    keys: list[str]
    reset: list[str]
    """Those that operators have let all routers forget: they may be missing."""


class HealthAnswer(TypedDict):
    """Whether the router lives, and in which ways it is degraded."""

    status: Literal["ok", "degraded"]
    degraded: list[str]


class ReadinessAnswer(TypedDict):
    """Whether requests can be served well, and what is missing."""

    ready: bool
    missing: list[str]
