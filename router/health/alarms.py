"""What is wrong, as operators see it: one alarm for each thing that is, since when, and those that are over.

A replica that is dead has many symptoms, and is one alarm.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Replica
from router.health.health import Degradation, Health

LOST_SECONDS = 600.0
"""How long a replica that died is an alarm, unless it comes back."""
MAX_PAST = 100
SERIOUS = ("lost", "unreachable", "redis", "redis_refuses")


class Alarm(msgspec.Struct, kw_only=True):
    """One thing that is wrong. Times are seconds since 1970."""

    kind: str
    """A `Kind` of degradation, or "lost": a replica has died."""
    serious: bool
    replica: str
    model: str
    text: str
    since: float
    until: float | None = None


class AlarmLog:
    """The alarms of one router since it started."""

    def __init__(self, health: Health, fleet: Fleet, clock: Callable[[], float] = time.time) -> None:
        self._health = health
        self._fleet = fleet
        self._clock = clock
        self._seen: dict[str, Replica] = {}
        self._lost: dict[str, float] = {}
        self._now: dict[str, Alarm] = {}
        self.past: deque[Alarm] = deque(maxlen=MAX_PAST)
        """Those that are over, the last first."""

    def look(self) -> list[Alarm]:
        """All that hold now, the most serious first."""
        now, before = self._clock(), self._now
        self._now = {}
        for found in sorted((*self._of_lost(now), *self._health.degradations()), key=_place):
            key = found.replica or f"{found.kind} {found.model}"
            if (alarm := self._now.get(key)) is not None:
                alarm.text += f"; {found.text.removeprefix(f'replica {found.replica}: ')}"
                continue
            self._now[key] = Alarm(
                kind=found.kind,
                serious=found.kind in SERIOUS,
                replica=found.replica,
                model=found.model,
                text=found.text,
                since=before[key].since if key in before else now,
            )
        for key, alarm in before.items():
            if key not in self._now:
                alarm.until = now
                self.past.appendleft(alarm)
        return list(self._now.values())

    def _of_lost(self, now: float) -> Iterator[Degradation]:
        alive = self._fleet.replicas
        for replica_id, replica in self._seen.items():
            if replica.lost and replica_id not in alive:
                self._lost[replica_id] = now
        self._seen = dict(alive)
        for replica_id, at in list(self._lost.items()):
            if replica_id in alive or now - at > LOST_SECONDS:
                del self._lost[replica_id]
            else:
                text = f"replica {replica_id}: neither its agent nor its engine answers"
                yield Degradation("lost", text, replica=replica_id)


def _place(found: Degradation) -> int:
    return SERIOUS.index(found.kind) if found.kind in SERIOUS else len(SERIOUS)
