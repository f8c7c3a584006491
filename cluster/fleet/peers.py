"""What the other routers have booked, so that several routers decide as one would.

Each router publishes the totals of the replicas whose bookings changed as soon as they do, and all its
totals with every heartbeat. Nothing of a router that has fallen silent counts for longer than
`SILENCE_SECONDS`.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping, Sequence

from cluster.index.block_table import BlockKeys, as_keys, pack
from cluster.protocol.wire import Booked, Bookings, Expected

SILENCE_SECONDS = 1.5
"""Three heartbeats of the default length."""
NOTHING = Booked()
MAX_EXPECTED_KEYS = 1_024
"""Blocks told of one prompt; of a longer one the others expect the beginning."""
MAX_WAITING = 1_000
"""Prompts that wait to be told while Redis is away; the oldest are dropped."""


class Outbox:
    """What this router has to tell since its last message."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self._replicas: set[str] = set()
        self._expected: OrderedDict[int, tuple[str, BlockKeys]] = OrderedDict()
        self._computed: deque[int] = deque(maxlen=MAX_WAITING)

    def changed(self, replica_id: str) -> None:
        """The bookings on a replica have changed."""
        self._replicas.add(replica_id)
        self.wake.set()

    def expected(self, number: int, replica_id: str, keys: Sequence[int] | BlockKeys) -> None:
        """A prompt has been sent to a replica; these are its blocks that the replica does not hold yet."""
        if len(keys):
            self._expected[number] = replica_id, as_keys(keys[:MAX_EXPECTED_KEYS])
            if len(self._expected) > MAX_WAITING:
                self._expected.popitem(last=False)

    def computed(self, number: int) -> None:
        """A prompt has been computed, or given up."""
        if self._expected.pop(number, None) is None:
            self._computed.append(number)

    def take(self) -> tuple[set[str], tuple[Expected, ...], tuple[int, ...]]:
        """Empty the box: replicas, expected blocks, computed prompts."""
        expected = tuple(
            Expected(number, replica_id, pack(keys)) for number, (replica_id, keys) in self._expected.items()
        )
        contents = self._replicas, expected, tuple(self._computed)
        self._replicas = set()
        self._expected.clear()
        self._computed.clear()
        self.wake.clear()
        return contents


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

    def receive(self, bookings: Bookings, now: float) -> Collection[str]:
        """Take in what a router says of itself; returns the ids of replicas that it says something new of."""
        known = self._routers.setdefault(bookings.router, {})
        self._heard[bookings.router] = now
        gone = known.keys() - bookings.replicas.keys() if bookings.complete else ()
        changed = {name: booked for name, booked in bookings.replicas.items() if known.get(name) != booked}
        changed.update(dict.fromkeys(gone, NOTHING))
        for replica_id, booked in changed.items():
            self._set(known, replica_id, booked)
        return changed

    def forget_silent(self, now: float) -> list[str]:
        """Drop routers that have said nothing for `SILENCE_SECONDS`; returns their ids."""
        silent = [name for name, heard in self._heard.items() if heard + SILENCE_SECONDS <= now]
        for router in silent:
            self.forget(router)
        return silent

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
        one.active_tokens + other.active_tokens - less.active_tokens,
        one.engine_tokens + other.engine_tokens - less.engine_tokens,
    )
