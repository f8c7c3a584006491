"""What the other routers have booked, so that several routers decide as one would.

Each router publishes the totals of the replicas whose bookings changed as soon as they do, and all its
totals with every heartbeat. Nothing of a router that has fallen silent counts for longer than
`SILENCE_SECONDS`.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping, Sequence

from cluster.fleet.replicas import Replica
from cluster.index.block_table import BlockKeys, as_keys, pack, unpack
from cluster.index.prefix_index import Expectation, PrefixIndex
from cluster.protocol.wire import Booked, Bookings, Expected, ProgramTurn

SILENCE_SECONDS = 1.5
"""Three heartbeats of the default length."""
NOTHING = Booked()
MAX_EXPECTED_KEYS = 1_024
"""Blocks published of one prompt; of a longer one the others expect the beginning."""
MAX_WAITING = 1_000
"""Prompts that wait to be published while Redis is away; the oldest are dropped."""
EXPECTATION_LIMIT_SECONDS = 30.0
EXPECTATION_GRACE_SECONDS = 1.0
"""How long blocks stay expected after their prompt has been computed, while the engine's events are on their
way."""
MAX_EXPECTATIONS = 20_000
"""Prompts of all other routers; beyond it the oldest are forgotten."""


class Outbox:
    """What this router has to publish since its last message."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self._replicas: set[str] = set()
        self._expected: OrderedDict[int, tuple[str, BlockKeys]] = OrderedDict()
        self._computed: deque[int] = deque(maxlen=MAX_WAITING)
        self.turns: deque[ProgramTurn] = deque(maxlen=MAX_WAITING)
        self.ended: deque[tuple[int, float]] = deque(maxlen=MAX_WAITING)
        """Turns of programs that have begun or wait, and those that have ended."""

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

    def take(self, router: str) -> tuple[set[str], Bookings]:
        """Empty the box: the replicas whose bookings have changed, and a message of all else."""
        expected = tuple(
            Expected(number, replica_id, pack(keys)) for number, (replica_id, keys) in self._expected.items()
        )
        changed, self._replicas = self._replicas, set()
        news = Bookings(
            router,
            {},
            expected=expected,
            computed=tuple(self._computed),
            turns=tuple(self.turns),
            ended=tuple(self.ended),
        )
        for sent in (self._expected, self._computed, self.turns, self.ended, self.wake):
            sent.clear()
        return changed, news


class PeerBookings:
    """The bookings of all other routers, by router and summed up per replica. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._totals: dict[str, Booked] = {}
        self._routers: dict[str, dict[str, Booked]] = {}
        self._received_at: dict[str, float] = {}

    def __getitem__(self, replica_id: str) -> Booked:
        """What the others have booked on a replica, taken together."""
        return self._totals.get(replica_id, NOTHING)

    def by_router(self) -> Mapping[str, Mapping[str, Booked]]:
        """What each router has booked on each replica, without zeros."""
        return self._routers

    def receive(self, bookings: Bookings, now: float) -> Collection[str]:
        """Take in what a router says of itself; returns the ids of replicas that it says something new of."""
        known = self._routers.setdefault(bookings.router, {})
        self._received_at[bookings.router] = now
        gone = known.keys() - bookings.replicas.keys() if bookings.complete else ()
        changed = {name: booked for name, booked in bookings.replicas.items() if known.get(name) != booked}
        changed.update(dict.fromkeys(gone, NOTHING))
        for replica_id, booked in changed.items():
            self._set(known, replica_id, booked)
        return changed

    def forget_silent(self, now: float) -> list[str]:
        """Drop routers that have said nothing for `SILENCE_SECONDS`; returns their ids."""
        silent = [name for name, at in self._received_at.items() if at + SILENCE_SECONDS <= now]
        for router in silent:
            self.forget(router)
        return silent

    def forget(self, router: str) -> None:
        """Drop one router; nothing happens when it is unknown."""
        known = self._routers.get(router, {})
        for replica_id in list(known):
            self._set(known, replica_id, NOTHING)
        self._routers.pop(router, None)
        self._received_at.pop(router, None)

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


class PeerExpectations:
    """Blocks that engines are about to hold because another router has just sent them a prompt.

    Without them several routers would each have the same opening computed on another replica, until the first
    events come back. An expectation lasts until the prompt has been computed and the engine's events have had
    time to arrive, until its router falls silent, or for `EXPECTATION_LIMIT_SECONDS` when the message about
    its end is lost. Times are monotonic seconds.
    """

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._open: OrderedDict[tuple[str, int], tuple[float, Expectation]] = OrderedDict()
        self._computed: OrderedDict[tuple[str, int], tuple[float, Expectation]] = OrderedDict()

    def receive(self, bookings: Bookings, replicas: Mapping[str, Replica], now: float) -> None:
        """Take in what a router has sent, and what has been computed."""
        for expected in bookings.expected:
            replica, name = replicas.get(expected.replica), (bookings.router, expected.number)
            if replica is not None and name not in self._open:
                expectation = self._index.expect(replica.slot, unpack(expected.keys))
                self._open[name] = (now + EXPECTATION_LIMIT_SECONDS, expectation)
        for number in bookings.computed:
            name = (bookings.router, number)
            if name in self._open:
                if earlier := self._computed.pop(name, None):  # sent twice, by a router that lost its answer
                    self._index.forget(earlier[1])
                self._computed[name] = (now + EXPECTATION_GRACE_SECONDS, self._open.pop(name)[1])
        while len(self._open) > MAX_EXPECTATIONS:
            self._index.forget(self._open.popitem(last=False)[1][1])

    def expire(self, now: float) -> None:
        """Forget what is over."""
        for expectations in (self._open, self._computed):
            while expectations and next(iter(expectations.values()))[0] <= now:
                self._index.forget(expectations.popitem(last=False)[1][1])

    def forget(self, router: str) -> None:
        """Forget everything of one router."""
        for expectations in (self._open, self._computed):
            for name in [name for name in expectations if name[0] == router]:
                self._index.forget(expectations.pop(name)[1])


def _plus(one: Booked, other: Booked, less: Booked = NOTHING) -> Booked:
    return Booked(
        one.running + other.running - less.running,
        one.queued_tokens + other.queued_tokens - less.queued_tokens,
        one.active_tokens + other.active_tokens - less.active_tokens,
        one.engine_tokens + other.engine_tokens - less.engine_tokens,
    )
