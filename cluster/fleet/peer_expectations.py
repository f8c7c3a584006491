"""Blocks that engines are about to hold because another router has just sent them a prompt.

Without them several routers would each have the same opening computed on another replica, until the first
events come back. An expectation lasts until the prompt has been computed and the engine's events have had
time to arrive, until its router falls silent, or for `LIMIT_SECONDS` when the message about its end is lost.
"""

from collections import OrderedDict
from collections.abc import Mapping

from cluster.index.block_table import unpack
from cluster.index.prefix_index import Expectation, PrefixIndex
from cluster.protocol.wire import Bookings

LIMIT_SECONDS = 30.0
GRACE_SECONDS = 1.0
"""How long blocks stay expected after their prompt has been computed, while events are on their way."""
MAX_EXPECTATIONS = 20_000
"""Prompts of all other routers; beyond it the oldest are forgotten."""


class PeerExpectations:
    """What one index expects because of other routers. Times are monotonic seconds."""

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._open: OrderedDict[tuple[str, int], tuple[float, Expectation]] = OrderedDict()
        self._computed: OrderedDict[tuple[str, int], tuple[float, Expectation]] = OrderedDict()

    def receive(self, bookings: Bookings, slots: Mapping[str, int], now: float) -> None:
        """Take in what a router has sent, and what has been computed; ``slots`` are those of replicas."""
        for expected in bookings.expected:
            slot, name = slots.get(expected.replica), (bookings.router, expected.number)
            if slot is not None and name not in self._open:
                expectation = self._index.expect(slot, unpack(expected.keys))
                self._open[name] = (now + LIMIT_SECONDS, expectation)
        for number in bookings.computed:
            name = (bookings.router, number)
            if name in self._open:
                if earlier := self._computed.pop(name, None):  # told twice: a router that lost its answer
                    self._index.forget(earlier[1])
                self._computed[name] = (now + GRACE_SECONDS, self._open.pop(name)[1])
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
