"""Prometheus metrics of a router: what requests count, and what its gauges read."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

from cluster.fleet.fleet import Fleet
from router.health.health import Health
from router.history.record import RequestRecord
from router.history.tallies import Rates, Row, Tallies, add_row
from router.observe.exposition import exposition, rows_of
from router.observe.fleet_gauges import fleet_gauges
from router.observe.snapshots import Ended, EndedLabels, Snapshot, SnapshotFiles

REFRESH_SECONDS = 1.0
"""How old the numbers of other processes may be. A process that is killed takes what it counted since then
with it."""
SHOWN_SECONDS = 3600.0
"""How long the numbers of a replica are shown after it has left the fleet. Under Ray every start of a replica
has a new id, so that without an end there would be ever more."""
FORGET_SECONDS = 60.0
"""How long after that they are still kept: by then no process shows them, so none shows a part of the sum."""


class Metrics:
    """Counts finished requests, reads gauges, and shows them with those of other processes. `run` shares."""

    def __init__(self, fleet: Fleet, health: Health, tallies: Tallies) -> None:
        self._fleet = fleet
        self._health = health
        self._tallies = tallies
        self._gauges = fleet_gauges(fleet)
        self._ended: dict[EndedLabels, Ended] = {}
        self._missing_since: dict[str, float] = {}
        self._files = SnapshotFiles.shared
        if self._files is not None and (before := self._files.read_own()) is not None:
            tallies.add_before(before.tallies)
            self._ended, self._missing_since = before.ended, before.missing_since
        self._encoded = b""

    def observe(self, record: RequestRecord, ttft: float | None) -> None:
        """Count how a request ended; ``ttft`` in seconds. It is shown from the next `refresh` on."""
        labels = (record.model, record.path, record.outcome, record.policy, record.arm)
        ended = self._ended.get(labels)
        if ended is None:
            ended = self._ended[labels] = Ended()
        ended.add(record, ttft)

    async def run(self) -> None:
        """Until cancelled, show other processes how the numbers of this one stand, and forget old ones."""
        try:
            while True:
                await asyncio.sleep(REFRESH_SECONDS)
                self.forget_departed(time.monotonic())
                if self._files is not None:
                    self.refresh()
        finally:
            self.refresh()

    def refresh(self) -> None:
        """Take a snapshot of what was counted and of the fleet: what all that follows shows."""
        self._encoded = Snapshot(
            self._tallies.since_start(),
            self._ended,
            {gauge.name: float(gauge.read()) for gauge in self._gauges},
            Counter(degradation.kind for degradation in self._health.degradations()),
            self._missing_since,
        ).encode()
        if self._files is not None:
            self._files.write(self._encoded)

    def forget_departed(self, now: float) -> None:
        """Drop the numbers of replicas that left the fleet long ago; ``now`` in monotonic seconds."""
        departed = self._tallies.replicas() - self._fleet.replicas.keys()
        self._missing_since = {replica: self._missing_since.get(replica, now) for replica in departed}
        for replica, since in self._missing_since.items():
            if now - since > SHOWN_SECONDS + FORGET_SECONDS:
                self._tallies.forget(replica)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format. Any thread may ask: a thousand replicas take 0.1 s."""
        return exposition(self._snapshots(), self._gauges)

    def replica_totals(self) -> Mapping[str, Rates]:
        """What became of all requests of each replica. Any thread may ask."""
        sums: dict[str, Row] = {}
        for labels, row in rows_of(self._snapshots()).items():
            add_row(sums, labels[0], row)
        return {replica: Rates.of(row) for replica, row in sums.items()}

    def requests_by_path(self) -> Mapping[str, int]:
        """How many requests of each API have ended. Any thread may ask."""
        sums = Counter[str]()
        for snapshot in self._snapshots():
            for labels, ended in snapshot.ended.items():
                sums[labels[1]] += ended.requests
        return sums

    def _snapshots(self) -> list[Snapshot]:
        """What each process has counted, without replicas that left long ago."""
        own = Snapshot.decode(self._encoded)
        shown_since = time.monotonic() - SHOWN_SECONDS
        hidden = {replica for replica, since in own.missing_since.items() if since < shown_since}
        snapshots = [own, *(self._files.others() if self._files is not None else ())]
        for snapshot in snapshots:
            snapshot.drop(hidden)
        return snapshots
