"""What the other routers have booked, so that several routers decide as one would.

Each router publishes the totals of the replicas whose bookings changed as soon as they do, and all its
totals with every heartbeat. Nothing of a router that has fallen silent counts for longer than
`SILENCE_SECONDS`.
"""

import asyncio
from collections.abc import Mapping

from cluster.wire import Booked, Bookings

SILENCE_SECONDS = 1.5
"""Three heartbeats of the default length."""
NOTHING = Booked()


class Outbox:
    """The replicas on which this router's own bookings have changed since the last message."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self._replicas: set[str] = set()

    def booked(self, replica_id: str) -> None:
        """The bookings on a replica have changed."""
        self._replicas.add(replica_id)
        self.wake.set()

    def take(self) -> set[str]:
        """Empty the box."""
        replicas, self._replicas = self._replicas, set()
        self.wake.clear()
        return replicas


class PeerBookings:
    """The bookings of all other routers, by router and summed up per replica. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._totals: dict[str, Booked] = {}
        self._routers: dict[str, dict[str, Booked]] = {}
        self._heard: dict[str, float] = {}

    def __getitem__(self, replica_id: str) -> Booked:
        """What the others have booked on a replica, taken together."""
        return self._totals.get(replica_id, NOTHING)

    def by_router(self) -> Mapping[str, Mapping[str, Booked]]:
        """What each router has booked on each replica, without zeros."""
        return self._routers

    def hear(self, bookings: Bookings, now: float) -> None:
        """Take in what a router says of itself."""
        known = self._routers.setdefault(bookings.router, {})
        self._heard[bookings.router] = now
        gone = known.keys() - bookings.replicas.keys() if bookings.complete else ()
        for replica_id in gone:
            self._set(known, replica_id, NOTHING)
        for replica_id, booked in bookings.replicas.items():
            self._set(known, replica_id, booked)

    def forget_silent(self, now: float) -> None:
        """Drop routers that have said nothing for `SILENCE_SECONDS`."""
        for router in [name for name, heard in self._heard.items() if heard + SILENCE_SECONDS <= now]:
            self.forget(router)

    def forget(self, router: str) -> None:
        """Drop one router; nothing happens when it is unknown."""
        known = self._routers.get(router, {})
        for replica_id in list(known):
            self._set(known, replica_id, NOTHING)
        self._routers.pop(router, None)
        self._heard.pop(router, None)

    def check_integrity(self) -> None:
        """Totals are the sums over routers. Raises `AssertionError` otherwise."""
        sums: dict[str, Booked] = {}
        for known in self._routers.values():
            for replica_id, booked in known.items():
                sums[replica_id] = _plus(sums.get(replica_id, NOTHING), booked)
        if sums != self._totals:
            raise AssertionError("bookings of other routers do not add up")

    def _set(self, known: dict[str, Booked], replica_id: str, booked: Booked) -> None:
        total = _plus(self[replica_id], booked, known.get(replica_id, NOTHING))
        if booked == NOTHING:
            known.pop(replica_id, None)
        else:
            known[replica_id] = booked
        if total == NOTHING:
            self._totals.pop(replica_id, None)
        else:
            self._totals[replica_id] = total


def _plus(one: Booked, other: Booked, less: Booked = NOTHING) -> Booked:
    return Booked(
        one.running + other.running - less.running,
        one.queued_tokens + other.queued_tokens - less.queued_tokens,
    )
