"""The fleet that is simulated, and what happens to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cluster.fleet.programs import Programs
from loadtest.simulator.profiles import EngineProfile
from loadtest.simulator.workload import Workload


class ChangeKind(StrEnum):
    """What can happen to a fleet."""

    JOIN = "join"
    """A new replica, with nothing in its cache."""
    DRAIN = "drain"
    """A replica takes no more requests and finishes those it has."""
    DEATH = "death"
    """A replica is gone, with everything open on it."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happens to one replica: to the first that has not left, or to a new one."""

    kind: ChangeKind
    at: float
    """Virtual seconds after the beginning."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a simulated system but its policy and its clients."""

    replicas: int = 8
    routers: int = 1
    profile: EngineProfile = field(default_factory=EngineProfile)
    slow: Mapping[int, float] = field(default_factory=dict)
    """Replicas, by number, that need this many times as long for everything."""
    event_lag_seconds: float = 0.003
    """The time from the end of an engine's step until routers have applied its cache events."""
    gossip_lag_seconds: float = 0.005
    """The time from a booking until the other routers know of it."""
    network_seconds: float = 0.001
    """One way between router and engine."""
    changes: tuple[Change, ...] = ()
    ledger: Callable[[Workload], Programs] | None = None
    """Who decides which programs are kept, with one router; None: the product's own ledger."""
