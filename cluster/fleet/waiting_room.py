"""Requests that wait in the router, not in an engine, while their replica has enough to do.

An engine computes prompts in the order in which they came. Here what is short goes first, since it delays the
others least; but what waits gains on what comes later, so nobody is overtaken for ever.
"""

import heapq
from collections.abc import Callable
from typing import NamedTuple

from cluster.fleet.booking import Booking
from cluster.fleet.replicas import Replica

AGEING_TOKENS = 3_000.0
"""A request overtakes one that has waited a second longer when it has so many tokens less to compute."""
SPARE_ENTRIES = 64
"""Entries of requests that wait no longer are swept when they are more than the others and so many."""


class _Waiting(NamedTuple):
    """Ordered by place, then by number."""

    place: float
    number: int
    room_tokens: float
    booking: Booking
    go: Callable[[bool], None]


class WaitingRoom:
    """Bookings on hold, by replica."""

    def __init__(self) -> None:
        self._queues: dict[Replica, list[_Waiting]] = {}
        self._num_entered = 0
        self._admitting: set[Replica] = set()

    def __len__(self) -> int:
        """Entries, also those of requests that wait no longer and have not been swept."""
        return sum(map(len, self._queues.values()))

    def enter(self, booking: Booking, room_tokens: float, since: float, go: Callable[[bool], None]) -> None:
        """Hold a request, which waits ``since`` a monotonic time, until its replica's engine has less than
        ``room_tokens`` to compute.
        """
        self._num_entered += 1
        place = booking.queued_tokens + AGEING_TOKENS * since
        queue = self._queues.setdefault(booking.replica, [])
        if len(queue) > 2 * booking.replica.held + SPARE_ENTRIES:
            queue[:] = [waiting for waiting in queue if waiting.booking.held]
            heapq.heapify(queue)
        heapq.heappush(queue, _Waiting(place, self._num_entered, room_tokens, booking, go))
        booking.hold()

    def admit(self, replica: Replica, engine_queue: Callable[[Replica], int]) -> None:
        """Let those go for whom there is room; each that goes takes some of it."""
        queue = self._queues.get(replica)
        if queue is None or replica in self._admitting:
            return
        self._admitting.add(replica)  # letting one go changes the load, and so leads here again
        try:
            while queue and not (queue[0].booking.held and engine_queue(replica) >= queue[0].room_tokens):
                waiting = heapq.heappop(queue)
                if waiting.booking.held:
                    waiting.booking.admit()
                    waiting.go(True)
        finally:
            self._admitting.discard(replica)
        if not queue and self._queues.get(replica) is queue:
            del self._queues[replica]

    def send_away(self, replica: Replica) -> None:
        """A replica takes no more requests."""
        for waiting in sorted(self._queues.pop(replica, [])):
            if waiting.booking.held:
                waiting.booking.resume()
                waiting.go(False)
