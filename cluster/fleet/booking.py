"""One request's load on one replica, from the decision until its stream has ended; and requests that wait in
the router, not in an engine, while their replica has enough to do.

An engine computes prompts in the order in which they came. Here what is short goes first, since it delays the
others least; but what waits gains on what comes later, so nobody is overtaken for ever.
"""

import heapq
from collections.abc import Callable
from typing import NamedTuple, Protocol

from cluster.fleet.peers import EXPECTATION_GRACE_SECONDS, Outbox
from cluster.fleet.replicas import Replica
from cluster.fleet.sent_prompts import SentPrompts
from cluster.fleet.turns import Turns
from cluster.index.block_table import BlockKeys
from cluster.index.prefix_index import Expectation, PrefixIndex


class Books(Protocol):
    """What a booking needs of the fleet that it belongs to."""

    index: PrefixIndex
    outbox: Outbox
    turns: Turns
    num_bookings: int
    """Bookings made so far."""
    open_bookings: int
    sent: SentPrompts

    def engine_queue(self, replica: Replica) -> int:
        """Tokens that all routers have sent to a replica's engine, and that it has not computed."""

    def load_changed(self, replica: Replica) -> None:
        """The numbers of a replica have changed."""

    def forget_later(self, expectation: Expectation, deadline: float) -> None:
        """Blocks stay expected until a monotonic time in seconds."""


class Booking:
    """Counts on its replica until it is released. `Fleet.book` makes it."""

    def __init__(
        self,
        fleet: Books,
        replica: Replica,
        keys: BlockKeys,
        prompt_tokens: int,
        cached_tokens: int,
        streamed: bool,
        text_of: int,
    ) -> None:
        lease, block_size = replica.lease, replica.lease.block_size or 1
        self.replica = replica
        self.held = False
        """Whether the request waits in the router."""
        self.program, self.booked_at = 0, 0.0
        """The conversation that counts as a program, and when this turn of it was booked; 0 for none."""
        covered = 0 < len(keys) == prompt_tokens // block_size
        self.watched = covered and lease.publishes_events and not fleet.index.full and not text_of
        """Whether the engine's events show how far the prompt has been computed."""
        self._fleet = fleet
        self._keys = keys
        self._text_of = text_of
        self._prompt_tokens = prompt_tokens
        self._num_computed = min(cached_tokens // block_size, len(keys))
        self.queued_tokens = prompt_tokens - cached_tokens
        """Prompt tokens that the engine has not computed yet."""
        if self.watched and not streamed:  # events show full blocks only
            self.queued_tokens = (len(keys) - self._num_computed) * block_size
        self._end_is_seen = streamed or self.watched
        self._number = fleet.num_bookings
        self._expectation = fleet.index.expect(replica.slot, keys)
        self._computed = self._released = False
        self._work, self._sent_at = 0, 0.0
        replica.running += 1
        replica.queued_tokens += self.queued_tokens
        replica.active_tokens += prompt_tokens
        replica.sent_tokens += self.queued_tokens
        if fleet.sent.num_keys:
            fleet.sent.trim(replica)
        self._enter_engine()
        fleet.outbox.expected(self._number, lease.replica, keys[self._num_computed :])
        fleet.load_changed(replica)

    def begin_program(self, key: int, now: float) -> None:
        """The request is a turn of a program, booked at a monotonic time in seconds."""
        if len(self._keys) and self.replica.lease.capacity_blocks:
            self.program, self.booked_at = key, now
            self._fleet.turns.begin(self._number, key, self.replica, self._keys, self._prompt_tokens, now)

    def hold(self) -> None:
        """The request waits in the router until `resume`."""
        self.held = True
        self.replica.held += 1
        self._leave_engine()
        self._fleet.load_changed(self.replica)

    def resume(self) -> None:
        """The request does not wait any longer; only the first call counts."""
        if self.held:
            self.held = False
            self.replica.held -= 1
            self._enter_engine()
            self._fleet.load_changed(self.replica)

    def admit(self) -> None:
        """The engine has room for a request that waits: what it has computed for others meanwhile counts."""
        self.resume()
        if self.progress():
            self._fleet.load_changed(self.replica)

    def measure_from(self, now: float) -> None:
        """The request is being sent, at a monotonic time in seconds: measure how soon a token comes."""
        self._sent_at, self._work = now, self._fleet.engine_queue(self.replica)

    def progress(self) -> bool:
        """Look how far the engine has computed the prompt by now; whether that is further than before."""
        num_computed = self._fleet.index.num_confirmed(self.replica.slot, self._keys, self._num_computed)
        num_new = num_computed - self._num_computed
        if not num_new:
            return False
        self._num_computed = num_computed
        if num_computed == len(self._keys):
            del self.replica.prefilling[self]
        self._dequeue(min(num_new * self.replica.lease.block_size, self.queued_tokens))
        return True

    def prefill_done(self, now: float, first_token: bool = True) -> None:
        """The prompt no longer queues, at a monotonic time in seconds: its ``first_token`` has just been
        seen, or the request has come to an end.
        """
        if self._computed:
            return
        self._computed = True
        self.resume()
        if self._work and first_token:
            self.replica.pace.observe(self._work, self.replica.running, now - self._sent_at, now)
        self._dequeue(self.queued_tokens)
        self._leave_engine()
        self._fleet.outbox.computed(self._number)
        self._fleet.load_changed(self.replica)

    def release(self, now: float, succeeded: bool) -> None:
        """Give the load back; only the first call counts. ``now`` is a monotonic time in seconds."""
        if self._released:
            return
        self._released = True
        self.prefill_done(now, first_token=False)
        self.replica.running -= 1
        self.replica.active_tokens -= self._prompt_tokens
        self._fleet.load_changed(self.replica)
        if succeeded and self._text_of:
            self._fleet.sent.keep(self.replica, self._text_of, self._expectation, now)
        elif succeeded:
            self._fleet.forget_later(self._expectation, now + EXPECTATION_GRACE_SECONDS)
        else:
            self._fleet.index.forget(self._expectation)
        self._fleet.open_bookings -= 1
        if self.program:
            self._fleet.turns.end(self._number, self.program, self.replica, now - self.booked_at, now)

    def _enter_engine(self) -> None:
        if self._end_is_seen:
            self.replica.engine_tokens += self.queued_tokens
        if self.watched and self._num_computed < len(self._keys):
            self.replica.prefilling[self] = None

    def _leave_engine(self) -> None:
        if self._end_is_seen:
            self.replica.engine_tokens -= self.queued_tokens
        self.replica.prefilling.pop(self, None)

    def _dequeue(self, num_tokens: int) -> None:
        """So much less queues, of a request that is at the engine."""
        self.queued_tokens -= num_tokens
        self.replica.queued_tokens -= num_tokens
        if self._end_is_seen:
            self.replica.engine_tokens -= num_tokens


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
