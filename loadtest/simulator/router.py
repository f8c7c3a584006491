"""One router on virtual time: the product's own fleet and policies between clients and simulated engines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from cluster.fleet.booking import Booking
from cluster.fleet.fleet import Fleet
from cluster.index.block_table import as_keys
from cluster.index.evicted_blocks import EvictedBlocks
from cluster.protocol.wire import Bookings, Lease, Load, ReplicaState
from cluster.sync.gossip import PAUSE_SECONDS
from loadtest.simulator.clock import Clock
from loadtest.simulator.engine import Engine, EngineRequest
from loadtest.simulator.results import Answer
from loadtest.simulator.workload import Turn
from policies.catalog import NEED_ROOM
from policies.types import NoReplicaError, Policy, Request

MODEL = "model"
MAX_ATTEMPTS = 3
FAILED_SECONDS = 1.0
"""A replica that failed a request is left alone for so long, as with the router's default settings."""
NEVER = float("inf")
MAX_PAUSED_SECONDS = 600.0
"""Longest wait for room in KV memory."""
LOOK_SECONDS = 0.25


@dataclass(slots=True, eq=False)
class Call:
    """One client's request, from its arrival to its end."""

    turn: Turn
    arrival: float
    finish: Callable[[Answer], None]
    first_token: float = NEVER
    booking: Booking | None = None
    sent: EngineRequest | None = None
    replica: str = ""
    reason: str = ""
    expected_tokens: int = 0
    available_tokens: int = 0
    failures: list[str] = field(default_factory=list)
    """Replicas that failed it."""


class SimulatedRouter:
    """Decides, books, sends, and tries elsewhere, as `router.api.dispatch` does."""

    def __init__(
        self,
        clock: Clock,
        number: int,
        policy: Policy,
        block_size: int,
        engines: Mapping[str, Engine],
        network_seconds: float,
        capacity_blocks: int,
        tell: Callable[[Bookings], None] | None,
    ) -> None:
        self.fleet = Fleet()
        self.fleet.index.evicted = EvictedBlocks(1)  # nobody asks, and fresh memory takes time
        self._clock = clock
        self.name = f"router-{number}"
        self._number = number
        self._block_size = block_size
        self._policy = policy
        self._with_room = policy in NEED_ROOM
        self._capacity_blocks = capacity_blocks
        self._engines = engines
        self._network_seconds = network_seconds
        self._publish = tell
        """Takes messages for the other routers; None when there are none."""
        self._telling = False
        self._looking = False
        self._next_publish = 0.0

    def admit(self, name: str, state: ReplicaState = ReplicaState.READY) -> None:
        """A replica's lease says this."""
        lease = Lease(
            replica=name,
            url="",
            state=state,
            model=MODEL,
            block_size=self._block_size,
            publishes_events=True,
            capacity_blocks=self._capacity_blocks,
        )
        self.fleet.admit(lease, 1, Load())

    def receive(self, turn: Turn, finish: Callable[[Answer], None]) -> None:
        """A client's request arrives."""
        self._dispatch(Call(turn, self._clock.now, finish))

    def publish_everything(self) -> None:
        """Tell the other routers all bookings, as each router does twice a second."""
        if self._publish is not None:
            booked = {name: self.fleet.booked(name) for name in self.fleet.replicas}
            self._publish(Bookings(self.name, booked, complete=True))

    def _dispatch(self, call: Call) -> None:
        if not any(engine.fits(call.turn) for engine in self._engines.values()):
            self._finish(call, failed=True)
            return
        try:
            decided = self._decide(call)
        except NoReplicaError:
            self._finish(call, failed=True)
            return
        if decided is None:
            began = self.fleet.turns.wait(call.turn.conversation_key, call.arrival)
            self._publish_soon()
            self.fleet.programs.pauses.enter(began, lambda: self._dispatch(call))
            self._look_soon()
            return
        booking, room_tokens = decided
        if not self.fleet.hold(booking, room_tokens, call.arrival, lambda room: self._turn(call, room)):
            self._send(call)

    def _turn(self, call: Call, room: bool) -> None:
        """A request has waited in the router, and there is room now, or its replica takes no more."""
        if room:
            self._send(call)
        else:
            assert call.booking is not None
            call.booking.release(self._clock.now, succeeded=False)
            self._dispatch(call)

    def _send(self, call: Call) -> None:
        assert call.booking is not None
        call.booking.measure_from(self._clock.now)
        request = EngineRequest(
            call.turn,
            on_first_token=lambda: self._later(self._first_token, call),
            on_end=lambda: self._later(self._end, call),
            on_failure=lambda: self._later(self._fail, call),
        )
        call.sent = request
        self._later(self._engines[call.replica].add, request)

    def _look_soon(self) -> None:
        """While requests wait for room, look from time to time who has not come back."""
        if not self._looking and len(self.fleet.programs.pauses):
            self._looking = True
            self._clock.after(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = False
        self.fleet.forget_until(self._clock.now)
        self.fleet.programs.pauses.wake()  # it may have waited for long enough
        self._look_soon()

    def _decide(self, call: Call) -> tuple[Booking, float] | None:
        """Choose and book, as `router.api.dispatch` does in one step; None when the request has to wait."""
        turn = call.turn
        keys = as_keys(turn.keys[: turn.prompt_tokens // self._block_size])
        model = self.fleet.models.get(MODEL)
        if model is None:
            raise NoReplicaError
        snapshot = self.fleet.snapshot(
            model,
            keys,
            turn.prompt_tokens,
            self._clock.now,
            call.failures,
            turn.conversation_key,
            with_room=self._with_room,
        )
        decision = self._policy(
            Request(
                turn.prompt_tokens,
                turn.opening_tokens,
                turn.conversation_key,
                self._clock.now < call.arrival + MAX_PAUSED_SECONDS,
            ),
            snapshot,
        )
        if decision.waits:
            return None
        replica = model.replicas[decision.row]
        call.replica, call.reason = replica.lease.replica, decision.reason
        call.expected_tokens = int(snapshot.cached_tokens[decision.row])
        call.available_tokens = int(snapshot.cached_tokens[snapshot.eligible].max())
        call.booking = self.fleet.book(
            replica,
            keys,
            turn.prompt_tokens,
            call.expected_tokens,
            turn.conversation_key,
            program_at=self._clock.now if self._with_room else None,
        )
        self._publish_soon()
        return call.booking, decision.room_tokens

    def _first_token(self, call: Call) -> None:
        assert call.booking is not None
        call.first_token = self._clock.now
        call.booking.prefill_done(self._clock.now)
        self._publish_soon()

    def _end(self, call: Call) -> None:
        assert call.booking is not None
        call.booking.release(self._clock.now, succeeded=True)
        self._publish_soon()
        self._finish(call, failed=False)

    def _fail(self, call: Call) -> None:
        """The engine is gone: elsewhere, unless the client has seen a part of the answer."""
        assert call.booking is not None
        call.booking.release(self._clock.now, succeeded=False)
        call.booking.replica.failed_until = self._clock.now + FAILED_SECONDS
        self._publish_soon()
        call.failures.append(call.replica)
        if call.first_token == NEVER and len(call.failures) < MAX_ATTEMPTS:
            self._dispatch(call)
        else:
            self._finish(call, failed=True)

    def _finish(self, call: Call, failed: bool) -> None:
        turn = call.turn
        call.finish(
            Answer(
                arrival=call.arrival,
                first_token=call.first_token,
                end=self._clock.now,
                replica=call.replica,
                reason=call.reason,
                prompt_tokens=turn.prompt_tokens,
                expected_tokens=call.expected_tokens,
                hit_tokens=(call.sent.num_hit_tokens or 0) if call.sent else 0,
                available_tokens=call.available_tokens,
                conversation_key=turn.conversation_key,
                tenant=turn.tenant,
                router=self._number,
                attempts=len(call.failures) + (not failed),
                failed=failed,
            )
        )

    def _later(self, call: Callable[..., None], *arguments: object) -> None:
        """Call something when a message has gone one way over the network."""
        self._clock.after(self._network_seconds, call, *arguments)

    def _publish_soon(self) -> None:
        """Changes at once, but a pause between two messages, as in `cluster.sync.gossip`."""
        if self._publish is not None and not self._telling:
            self._telling = True
            self._clock.after(max(0.0, self._next_publish - self._clock.now), self._publish_changes)

    def _publish_changes(self) -> None:
        self._telling = False
        self._next_publish = self._clock.now + PAUSE_SECONDS
        changed, news = self.fleet.outbox.take(self.name)
        if self._publish is not None:
            booked = {name: self.fleet.booked(name) for name in changed}
            self._publish(replace(news, replicas=booked))
