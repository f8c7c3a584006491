"""Which faults happen when: a pure function of the seed and of a round's number.

Two engines of six are left alone in every round (their processes, their agents, their links), so that every
router can serve every request from them. Of the others, at most two are out of routers' reach at a time: a
router tries three replicas for one request, but only two when both have died or broken off under it, which
`tests.chaos.traffic` counts for each request that fails.
"""

import random
from dataclasses import dataclass
from enum import StrEnum

NUM_ENGINES = 6
NUM_ROUTERS = 3
NUM_TOUCHED = 4
"""Engines that faults of one round may be about."""
NUM_UNREACHABLE = 2
"""Of them, engines that routers cannot reach."""


class Kind(StrEnum):
    """Kinds of faults."""

    KILL_ENGINE = "kill_engine"
    KILL_AGENT = "kill_agent"
    KILL_ROUTER = "kill_router"
    KILL_REDIS = "kill_redis"
    RESTORE_REDIS = "restore_redis"
    """Killed, and started again with what it held some time before."""
    STOP_ENGINE = "stop_engine"
    STOP_AGENT = "stop_agent"
    STOP_ROUTER = "stop_router"
    STOP_REDIS = "stop_redis"
    FULL_REDIS = "full_redis"
    """It has no memory left, and may evict nothing."""
    DENY_REDIS = "deny_redis"
    """Its operators allow no writes any more."""
    SLOW_REDIS = "slow_redis"
    EVENTS_DROP = "events_drop"
    EVENTS_DELAY = "events_delay"
    EVENTS_DUPLICATE = "events_duplicate"
    EVENTS_REORDER = "events_reorder"
    EVENTS_MIXED = "events_mixed"
    LINK_EVENTS = "link_events"
    LINK_REPLAY = "link_replay"
    LINK_AGENT_ENGINE = "link_agent_engine"
    LINK_AGENT_REDIS = "link_agent_redis"
    LINK_ROUTER_REDIS = "link_router_redis"
    LINK_ROUTER_ENGINE = "link_router_engine"
    LINK_ROUTERS_ENGINE = "link_routers_engine"
    TRIM_LOG = "trim_log"
    DELETE_OWNED = "delete_owned"
    DELETE_LOG = "delete_log"
    DELETE_LEASE = "delete_lease"
    DELETE_MEMBERS = "delete_members"
    DROP_CLIENTS = "drop_clients"
    """Redis closes all connections."""
    FLUSH = "flush"
    CLEAR_CACHE = "clear_cache"
    HOSTILE_BODIES = "hostile_bodies"
    """A client sends one hostile body of up to 15 MiB after the other."""
    HALF_SENT = "half_sent"
    """A client begins very many requests and ends none."""
    UNWRITABLE_LOG = "unwritable_log"
    """Nobody reads what a router writes to its standard error, or the disk below is full."""


WEIGHTS: dict[Kind, float] = {
    Kind.KILL_ENGINE: 3,
    Kind.KILL_AGENT: 3,
    Kind.KILL_ROUTER: 2,
    Kind.KILL_REDIS: 3,
    Kind.RESTORE_REDIS: 3,
    Kind.STOP_ENGINE: 5,
    Kind.STOP_AGENT: 5,
    Kind.STOP_ROUTER: 4,
    Kind.STOP_REDIS: 3,
    Kind.FULL_REDIS: 4,
    Kind.DENY_REDIS: 4,
    Kind.SLOW_REDIS: 4,
    Kind.EVENTS_DROP: 7,
    Kind.EVENTS_DELAY: 5,
    Kind.EVENTS_DUPLICATE: 5,
    Kind.EVENTS_REORDER: 5,
    Kind.EVENTS_MIXED: 5,
    Kind.LINK_EVENTS: 5,
    Kind.LINK_REPLAY: 5,
    Kind.LINK_AGENT_ENGINE: 5,
    Kind.LINK_AGENT_REDIS: 5,
    Kind.LINK_ROUTER_REDIS: 6,
    Kind.LINK_ROUTER_ENGINE: 6,
    Kind.LINK_ROUTERS_ENGINE: 4,
    Kind.TRIM_LOG: 5,
    Kind.DELETE_OWNED: 4,
    Kind.DELETE_LOG: 3,
    Kind.DELETE_LEASE: 4,
    Kind.DELETE_MEMBERS: 2,
    Kind.DROP_CLIENTS: 3,
    Kind.FLUSH: 3,
    Kind.CLEAR_CACHE: 4,
    Kind.HOSTILE_BODIES: 4,
    Kind.HALF_SENT: 4,
    Kind.UNWRITABLE_LOG: 4,
}
OF_CLIENTS = frozenset({Kind.HOSTILE_BODIES, Kind.HALF_SENT})
ABOUT_ROUTER = OF_CLIENTS | {
    Kind.KILL_ROUTER,
    Kind.STOP_ROUTER,
    Kind.LINK_ROUTER_REDIS,
    Kind.UNWRITABLE_LOG,
}
ABOUT_REDIS = frozenset(
    {
        Kind.KILL_REDIS,
        Kind.RESTORE_REDIS,
        Kind.STOP_REDIS,
        Kind.FULL_REDIS,
        Kind.DENY_REDIS,
        Kind.SLOW_REDIS,
        Kind.DELETE_MEMBERS,
        Kind.DROP_CLIENTS,
        Kind.FLUSH,
    }
)
UNREACHABLE = frozenset(
    {Kind.KILL_ENGINE, Kind.STOP_ENGINE, Kind.LINK_ROUTER_ENGINE, Kind.LINK_ROUTERS_ENGINE}
)
AT_ONCE = frozenset(
    {
        Kind.TRIM_LOG,
        Kind.DELETE_OWNED,
        Kind.DELETE_LOG,
        Kind.DELETE_LEASE,
        Kind.DELETE_MEMBERS,
        Kind.DROP_CLIENTS,
        Kind.FLUSH,
        Kind.CLEAR_CACHE,
    }
)
"""Faults that are over as they happen."""
LINKS = frozenset(kind for kind in Kind if kind.startswith("link_"))
STOPS = frozenset(kind for kind in Kind if kind.startswith("stop_"))
LASTING = OF_CLIENTS | {Kind.FULL_REDIS, Kind.DENY_REDIS, Kind.SLOW_REDIS, Kind.UNWRITABLE_LOG}
"""What does nothing within a second: leases end after three, pipes take a while to fill."""
WEATHER = frozenset(kind for kind in Kind if kind.startswith("events_"))
SLOW_STARTS = frozenset({Kind.KILL_ENGINE, Kind.KILL_AGENT, Kind.KILL_ROUTER})
"""Processes that take seconds to start; more happens meanwhile."""
NUM_MEANWHILE = 3
SOON = (0.0, 0.4)
MEANWHILE = (0.4, 4.0)
"""When in its round a fault begins, in seconds."""
MODES = ("cut", "blackhole", "delay")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what, to which engine and router (-1: none), when in its round, and for how long."""

    kind: Kind
    engine: int = -1
    router: int = -1
    at: float = 0.0
    seconds: float = 0.0
    mode: str = ""
    """Of a link."""
    strength: float = 0.0
    """Probability per batch of events, or delay in seconds."""

    @property
    def name(self) -> str:
        """Kind and mode: how faults are counted."""
        return f"{self.kind}:{self.mode}" if self.mode else str(self.kind)

    @property
    def about(self) -> str:
        """What a round may do only one thing to at a time."""
        if self.kind in WEATHER:
            return f"weather{self.engine}"
        if self.kind in LINKS:
            return f"{self.kind}{self.engine}{self.router}"
        if self.kind in AT_ONCE:
            return f"{self.kind}{self.engine}"
        return str(self.kind).partition("_")[2] + f"{self.engine}{self.router}"

    def __str__(self) -> str:
        """As it stands in reports."""
        where = [f"engine{self.engine}"] * (self.engine >= 0) + [f"router{self.router}"] * (self.router >= 0)
        text = f"{self.name}({', '.join(where)})" if where else self.name
        return f"{text} +{self.at:.2f} s for {self.seconds:.2f} s"


@dataclass(frozen=True, slots=True)
class Round:
    """Faults that may overlap; the next round begins when all of them have been overcome."""

    number: int
    faults: tuple[Fault, ...]


def plan_round(seed: int, number: int) -> Round:
    """The faults of one round."""
    source = random.Random(f"chaos-{seed}-{number}")
    touched = source.sample(range(NUM_ENGINES), NUM_TOUCHED)
    router = source.randrange(NUM_ROUTERS)
    faults: list[Fault] = []
    for _ in range(source.choices((1, 2, 3, 4), (30, 40, 20, 10))[0]):
        _add(_draw(source, touched, router, SOON), faults)
    if any(fault.kind in SLOW_STARTS for fault in faults):
        for _ in range(NUM_MEANWHILE):
            _add(_draw(source, touched, router, MEANWHILE), faults)
    return Round(number, tuple(sorted(faults, key=lambda fault: fault.at)))


def _add(fault: Fault, faults: list[Fault]) -> None:
    if _fits(fault, faults):
        faults.append(fault)


def _draw(source: random.Random, touched: list[int], router: int, begin: tuple[float, float]) -> Fault:
    """One fault. Every draw takes the same numbers from the source, whatever their use.

    Half of them are about the round's first engine and router: troubles that come together are the hard ones.
    """
    [kind] = source.choices(list(WEIGHTS), list(WEIGHTS.values()))
    engine, other_router = source.choice(touched), source.randrange(NUM_ROUTERS)
    if source.random() < 0.5:
        engine = touched[0]
    else:
        router = other_router
    at = source.uniform(*begin)
    short, long, is_long = source.uniform(0.3, 1.2), source.uniform(1.5, 8.0), source.random()
    mode, chance, delay = source.choice(MODES), source.uniform(0.2, 1.0), source.uniform(0.01, 0.4)
    seconds = 0.0 if kind in AT_ONCE else short
    if kind in LASTING or (kind in STOPS and is_long < 0.3) or (kind in LINKS and is_long < 0.12):
        seconds = long
    if kind in STOPS:
        seconds = max(seconds, 0.5)
    about_engine = kind not in ABOUT_ROUTER | ABOUT_REDIS
    about_router = kind in ABOUT_ROUTER or kind is Kind.LINK_ROUTER_ENGINE
    return Fault(
        kind,
        engine if about_engine else -1,
        router if about_router else -1,
        at,
        seconds,
        mode if kind in LINKS else "",
        delay if (mode == "delay" and kind in LINKS) or kind is Kind.EVENTS_DELAY else chance,
    )


def _fits(fault: Fault, others: list[Fault]) -> bool:
    if any(fault.about == other.about for other in others):
        return False
    unreachable = {other.engine for other in [*others, fault] if other.kind in UNREACHABLE}
    return len(unreachable) <= NUM_UNREACHABLE
