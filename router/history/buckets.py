"""An hour of sums by replica in buckets of ten seconds, and running sums over windows of it.

Counts stand in one array of (bucket, replica, column): 44 KB for a replica with traffic, 11 MB for 256
of them, 90 MB at the bound. Memory of buckets without traffic is never touched.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from router.history.tallies import NUM_COLUMNS, Column

STEP_SECONDS = 10
HOUR_BUCKETS = 360
RECENT_BUCKETS = 30
HELD_BUCKETS = HOUR_BUCKETS + 4
"""The buckets that are kept, so that an hour of buckets that are over can be shown."""
MAX_REPLICAS = 2048
"""So many replicas with traffic in the last hour are counted by themselves; others only for the fleet."""
FIRST_ROWS = 65
REST = 0
"""The row of all replicas that found no place."""

Rows: TypeAlias = NDArray[np.int64]


class Buckets:
    """The last hour. Buckets are numbered by their place in time: number x 10 s since 1970."""

    def __init__(self, number: int) -> None:
        self.number = number
        """The number of the bucket that is not over."""
        self._clear()

    def _clear(self) -> None:
        self._places: dict[str, int] = {}
        self._free: list[int] = list(range(FIRST_ROWS - 1, REST, -1))
        self._counts = np.zeros((HELD_BUCKETS, FIRST_ROWS, NUM_COLUMNS), np.int64)
        self._sums = {
            length: np.zeros((FIRST_ROWS, NUM_COLUMNS), np.int64) for length in (RECENT_BUCKETS, HOUR_BUCKETS)
        }
        self._fleet = np.zeros((HELD_BUCKETS, NUM_COLUMNS), np.int64)

    def advance(self, number: int) -> None:
        """Begin the bucket with this number, unless it began before: time does not go back."""
        if number - self.number >= HELD_BUCKETS:
            self._clear()
            self.number = number
        for begun in range(self.number + 1, number + 1):
            for length, sums in self._sums.items():
                sums -= self._counts[(begun - length) % HELD_BUCKETS]
            self._counts[begun % HELD_BUCKETS] = 0
            self._fleet[begun % HELD_BUCKETS] = 0
        if number > self.number:
            self.number = number
            self._release()

    def add(self, number: int, replicas: Sequence[str], rows: Rows) -> None:
        """Count rows, one per replica, into a bucket of the last hour."""
        places = [self._place(replica) for replica in replicas]
        np.add.at(self._counts[number % HELD_BUCKETS], places, rows)
        self._fleet[number % HELD_BUCKETS] += rows.sum(axis=0)
        for length, sums in self._sums.items():
            if number > self.number - length:
                np.add.at(sums, places, rows)

    def replica(self, replica: str, length: int) -> list[int]:
        """Sums of a replica over the last buckets, with the current one."""
        place = self._places.get(replica)
        if place is None:
            return [0] * NUM_COLUMNS
        if length in self._sums:
            row: list[int] = self._sums[length][place].tolist()
        else:
            row = self._counts[self._positions(self.number, length), place].sum(axis=0).tolist()
        return row

    def fleet(self, last: int, length: int) -> Rows:
        """Sums of all replicas, one row for each of so many buckets, of which this is the last."""
        rows: Rows = self._fleet[self._positions(last, length)]
        return rows

    def _positions(self, last: int, length: int) -> NDArray[np.int64]:
        return np.arange(last - length + 1, last + 1) % HELD_BUCKETS

    def _place(self, replica: str) -> int:
        place = self._places.get(replica)
        if place is None:
            if not self._free and len(self._places) < MAX_REPLICAS:
                self._grow()
            place = self._free.pop() if self._free else REST
            if place != REST:
                self._places[replica] = place
        return place

    def _grow(self) -> None:
        rows = self._counts.shape[1]
        wider = min(2 * (rows - 1), MAX_REPLICAS) + 1
        self._counts = np.concatenate(
            [self._counts, np.zeros((HELD_BUCKETS, wider - rows, NUM_COLUMNS), np.int64)], axis=1
        )
        self._sums = {
            length: np.concatenate([sums, np.zeros((wider - rows, NUM_COLUMNS), np.int64)])
            for length, sums in self._sums.items()
        }
        self._free = list(range(wider - 1, rows - 1, -1))

    def _release(self) -> None:
        """Forget replicas without traffic in all that is held: they may have left."""
        requests = self._sums[HOUR_BUCKETS][:, Column.REQUESTS]
        for replica, place in list(self._places.items()):
            if not requests[place] and not self._counts[:, place, Column.REQUESTS].any():
                del self._places[replica]
                self._free.append(place)
