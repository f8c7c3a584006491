"""Turns of programs, made known to all routers, so that all have the same ledger.

Told are beginnings, ends and waits of turns, with the blocks that are counted. What is lost is made up for:
turns of a router that has fallen silent end, and any turn ends after `LIMIT_SECONDS`. Times are monotonic
seconds.
"""

from collections import OrderedDict
from collections.abc import Mapping

from cluster.fleet.peers import Outbox
from cluster.fleet.programs import Programs, counted
from cluster.fleet.replicas import Replica
from cluster.index.block_table import BlockKeys, pack, unpack
from cluster.protocol.wire import Bookings, ProgramTurn

LIMIT_SECONDS = 600.0
MAX_TURNS = 20_000
"""Open turns of all other routers; beyond it the oldest end."""


class Turns:
    """Turns at this router and at the others, and the ledger that counts them."""

    def __init__(self, programs: Programs, outbox: Outbox) -> None:
        self.programs = programs
        self._outbox = outbox
        self.open: OrderedDict[tuple[str, int], tuple[float, int, Replica]] = OrderedDict()
        """Of other routers: when each began, of which program, and where."""

    def begin(
        self, number: int, program: int, replica: Replica, keys: BlockKeys, prompt_tokens: int, now: float
    ) -> None:
        """A turn of a program has been booked here, under a number of its own."""
        self.programs.begin(program, replica.slot, keys, prompt_tokens, now)
        blocks = pack(counted(keys))
        self._outbox.turns.append(ProgramTurn(number, program, replica.lease.replica, prompt_tokens, blocks))

    def end(self, number: int, program: int, replica: Replica, seconds: float, now: float) -> None:
        """A turn that took so many seconds has ended here."""
        self.programs.end(program, seconds, replica.lease.capacity_blocks, now)
        self._outbox.ended.append((number, seconds))

    def wait(self, program: int, now: float) -> float:
        """A program's next turn waits here. Returns when the program began."""
        if program in self.programs.away:
            self._outbox.turns.append(ProgramTurn(0, program))
            self._outbox.wake.set()
        return self.programs.wait(program, now)

    def receive(self, bookings: Bookings, replicas: Mapping[str, Replica], now: float) -> None:
        """Take in what has happened at another router."""
        for turn in bookings.turns:
            name, replica = (bookings.router, turn.number), replicas.get(turn.replica)
            if not turn.replica:
                self.programs.wait(turn.program, now)
            elif replica is not None and name not in self.open:
                self.open[name] = now, turn.program, replica
                self.programs.begin(turn.program, replica.slot, unpack(turn.blocks), turn.prompt_tokens, now)
        for number, seconds in bookings.ended:
            self._end((bookings.router, number), now, seconds)
        while len(self.open) > MAX_TURNS:
            self._end(next(iter(self.open)), now)

    def forget(self, router: str, now: float) -> None:
        """End all turns of one router."""
        for name in [name for name in self.open if name[0] == router]:
            self._end(name, now)

    def expire(self, now: float) -> None:
        """End turns that last too long, and let go of programs that have not come back soon."""
        while self.open and next(iter(self.open.values()))[0] + LIMIT_SECONDS <= now:
            self._end(next(iter(self.open)), now)
        self.programs.expire(now)

    def _end(self, name: tuple[str, int], now: float, seconds: float | None = None) -> None:
        if turn := self.open.pop(name, None):
            began, program, replica = turn
            self.programs.end(
                program, now - began if seconds is None else seconds, replica.lease.capacity_blocks, now
            )
