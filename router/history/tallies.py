"""What one process has counted of requests at replicas: in the current bucket of time, and in all."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from router.history.record import RequestRecord
from router.history.tally import Row, Tally, add_row

LABELS = ("replica", "model", "policy", "arm", "reason")
TallyLabels: TypeAlias = tuple[str, str, str, str, str]
"""Values of `LABELS`."""
Rows: TypeAlias = dict[TallyLabels, Row]


class Tallies:
    """Sums of all requests of this process that came to a replica, by `LABELS`."""

    def __init__(self) -> None:
        self._current: dict[str, dict[TallyLabels, Tally]] = {}
        """The tallies of the current bucket of time, by replica."""
        self._before: dict[str, Rows] = {}
        """The sums of all buckets that are over, by replica."""

    def add(self, record: RequestRecord) -> None:
        """Count a finished request."""
        replica = record.replica
        labels = (replica, record.model, record.policy, record.arm, record.reason)
        try:
            tally = self._current[replica][labels]
        except KeyError:
            tally = self._current.setdefault(replica, {}).setdefault(labels, Tally())
        tally.add(record)

    def current(self, replica: str) -> Iterator[Row]:
        """Sums of one replica in the current bucket."""
        return (tally.row() for tally in self._current.get(replica, {}).values())

    def all_current(self) -> Rows:
        """Sums of all replicas in the current bucket."""
        return {
            labels: tally.row() for by_labels in self._current.values() for labels, tally in by_labels.items()
        }

    def finish(self) -> Rows:
        """Begin the next bucket. Returns the sums of the one that ends."""
        finished = self.all_current()
        self._current = {}
        self.add_before(finished)
        return finished

    def add_before(self, rows: Mapping[TallyLabels, Row]) -> None:
        """Count what is part of no current bucket."""
        for labels, row in rows.items():
            add_row(self._before.setdefault(labels[0], {}), labels, row)

    def since_start(self) -> Rows:
        """All sums."""
        rows = {labels: row for before in self._before.values() for labels, row in before.items()}
        for labels, row in self.all_current().items():
            add_row(rows, labels, row)
        return rows

    def replicas(self) -> set[str]:
        """The replicas of which anything was counted."""
        return {*self._before, *self._current}

    def forget(self, replica: str) -> None:
        """Drop what was counted of a replica before the current bucket."""
        self._before.pop(replica, None)
