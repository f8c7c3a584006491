"""What caches have saved, by hour, replica and model.

Every router adds what it has counted to sums of the deployment, one hash per hour in Redis. What could not be
added is added later, and nothing twice: additions are numbered, and Redis keeps the number of each router's
last one beside the sums. So one whose outcome is unknown is sent again, and does nothing where it arrived.
Where Redis has lost the hour, the next addition is all that this router has counted in it; what a failover
loses of the last ones stays lost.
"""

import operator
from itertools import islice
from typing import TypeAlias

import msgspec

from cluster.errors import StoreUnavailableError
from router.history.history_store import (
    HOUR_SECONDS,
    MAX_ADDED,
    SAVED_COLUMNS,
    HistoryStore,
    HourSums,
    Pair,
)
from router.history.tallies import Row, add_row, seconds_saved

HELD_HOURS = 24
"""While Redis is away, a router keeps its own numbers of so many hours."""
MAX_PAIRS = 4096
"""So many pairs of replica and model are kept for one hour: 2 MB. Further ones are counted together."""
REST: Pair = ("", "")

NOTHING = HourSums({}, 0)

Sums: TypeAlias = dict[Pair, Row]


class Saved(msgspec.Struct, kw_only=True):
    """What caches have saved."""

    requests: int = 0
    prompt_tokens: int = 0
    saved_tokens: int = 0
    saved_seconds: float | None = 0.0
    """None where the pace of no replica was known."""
    priced_tokens: int = 0


class SavedHour(Saved):
    """What caches have saved in one hour, on one replica for one model."""

    hour: float
    """When it began, seconds since 1970."""
    replica: str
    model: str


class _Hour:
    """What this router has counted in one hour, and how much of it Redis has."""

    def __init__(self) -> None:
        self.counted: Sums = {}
        self._published: Sums = {}
        self._sequence = 0
        """Number of the last addition that was answered."""
        self._expected = 0
        """Number that Redis should have as that of the last one."""
        self._sending: Sums | None = None
        """The addition whose answer has not come: it is sent again as it is."""

    def count(self, pair: Pair, row: Row) -> None:
        if pair not in self.counted and len(self.counted) >= MAX_PAIRS:
            pair = REST
        add_row(self.counted, pair, row)

    async def publish(self, hour: int, store: HistoryStore) -> None:
        """Add what Redis does not have. Raises `StoreUnavailableError`: then the same is sent again."""
        while sending := self._next():
            sequence = self._sequence + 1
            last = await store.add_savings(hour, sequence, self._expected, sending)
            self._sending = None
            if last in (self._expected, sequence):
                for pair, row in sending.items():
                    add_row(self._published, pair, row)
                self._expected = sequence
            else:  # Redis has lost some
                self._expected = last
                if not last:
                    self._published = {}
            self._sequence = sequence

    def not_in(self, sums: HourSums) -> Sums:
        """What this router has counted and the sums in Redis do not hold."""
        if not sums.sequence:
            return self.counted
        missing = self._missing()
        if self._sending and sums.sequence > self._sequence:  # it arrived, and Redis has not answered yet
            missing = _minus(missing, self._sending)
        return missing

    def _next(self) -> Sums | None:
        if self._sending is None:
            self._sending = dict(islice(self._missing().items(), MAX_ADDED)) or None
        return self._sending

    def _missing(self) -> Sums:
        return _minus(self.counted, self._published)


class Savings:
    """This router's sums, and those of all."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._hours: dict[int, _Hour] = {}

    def add(self, at: float, replica: str, model: str, row: Row) -> None:
        """Count what a replica did for a model in the bucket that began then (seconds since 1970)."""
        hour = int(at // HOUR_SECONDS)
        if hour not in self._hours:
            self._hours[hour] = _Hour()
            for old in sorted(self._hours)[:-HELD_HOURS]:
                del self._hours[old]
        self._hours[hour].count((replica, model), tuple(row[column] for column in SAVED_COLUMNS))

    async def publish(self) -> None:
        """Add to Redis what it does not have. Raises `StoreUnavailableError`; the rest follows next time."""
        for number, hour in list(self._hours.items()):
            await hour.publish(number, self._store)

    async def report(self, hours: int, now: float) -> list[list[SavedHour]]:
        """The sums of all routers in each of the last hours, oldest first; without Redis of this one."""
        current = int(now // HOUR_SECONDS)
        reachable = True
        report = []
        for number in range(current - hours + 1, current + 1):
            sums = NOTHING
            if reachable:
                try:
                    sums = await self._store.savings(number)
                except StoreUnavailableError:  # the follower logs it
                    reachable = False
            total = dict(sums.pairs)
            own = self._hours[number].not_in(sums) if number in self._hours else {}
            for pair, row in own.items():
                add_row(total, pair, row)
            report.append([_saved_hour(number, *pair, row) for pair, row in sorted(total.items())])
        return report


def _saved_hour(number: int, replica: str, model: str, row: Row) -> SavedHour:
    requests, prompt, delivered, saved, priced = row
    return SavedHour(
        hour=float(number * HOUR_SECONDS),
        replica=replica,
        model=model,
        requests=requests,
        prompt_tokens=prompt,
        saved_tokens=delivered,
        saved_seconds=seconds_saved(delivered, saved, priced),
        priced_tokens=priced,
    )


def _minus(sums: Sums, less: Sums) -> Sums:
    """What is left of each pair, where something is."""
    nothing = (0,) * len(SAVED_COLUMNS)
    left = {pair: tuple(map(operator.sub, row, less.get(pair, nothing))) for pair, row in sums.items()}
    return {pair: row for pair, row in left.items() if any(row)}
