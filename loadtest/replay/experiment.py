"""What a replay measured, as its report takes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loadtest.simulator.results import Run


@dataclass(frozen=True, slots=True)
class CapacityPoint:
    """The hit rate of one policy with caches of one size."""

    policy: str
    blocks_per_replica: int
    hit_rate: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """One trace, replayed through several policies at several loads."""

    title: str
    command: str
    """The command line that made it."""
    facts: Mapping[str, str]
    """Under which conditions: replicas, routers, engine profile, event lag, seeds."""
    runs: Sequence[Run]
    """At least one. Every policy at every load, with one or more seeds."""
    bound_hit_rate: float | None = None
    """Of one pooled cache of the same total size, as if all replicas shared their memory."""
    capacity: Sequence[CapacityPoint] = ()
    changes: Sequence[Run] = ()
    """Runs at one load in which the fleet changes."""
    change_times: Mapping[str, float] = field(default_factory=dict)
    """What changed in them, and when, in virtual seconds."""

    def policies(self) -> list[str]:
        """All policies, in the order in which they first occur."""
        named = [run.policy for run in (*self.runs, *self.changes)]
        return list(dict.fromkeys([*named, *(point.policy for point in self.capacity)]))

    def loads(self) -> list[float]:
        """All loads, lowest first."""
        return sorted({run.load for run in self.runs})
