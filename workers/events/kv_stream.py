"""A stream of one engine's KV events in strict order; whatever is missing is replayed, or reported as lost.

It subscribes first and replays then, so that nothing falls between. Every replay starts with the last batch
already seen: when the engine answers with another one, or with none, it is another process than before.
While nothing comes the engine is asked now and then, because the last batches before a silence can be lost
too. When the connection was lost it is asked before anything else is taken: behind it may be another process
that has come just as far.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass

import xxhash
import zmq

from workers.errors import EventFormatError
from workers.events.kv_events import EventBatch, EventSource, decode_batch
from workers.events.zmq_socket import EventSocket, connected

Connect = Callable[[int, str, int, str | None], AbstractContextManager[EventSocket]]
"""`workers.events.zmq_socket.connected`, or what plays it."""

END_OF_REPLAY = -1
REPLAY_QUEUE = 20_000
"""Batches of a replay that may wait to be read: vLLM buffers 10,000."""
LONG_REPLAY = 500
"""Batches of a replay from which on its end may be missing: vLLM's socket drops what its queue of 1,000
cannot hold."""


@dataclass(frozen=True, slots=True)
class Received:
    """The next batch, with nothing missing before it."""

    sequence: int
    batch: EventBatch


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """All that the engine has published has been received. Comes once, and again after `NotAnswering`."""


@dataclass(frozen=True, slots=True)
class EventsLost:
    """Batches that the engine no longer has, or that cannot be read; the stream goes on behind them."""

    first: int
    last: int
    reason: str = "the engine no longer has them"


@dataclass(frozen=True, slots=True)
class EngineRestarted:
    """Another engine process publishes now. The stream ends with this."""


@dataclass(frozen=True, slots=True)
class NotAnswering:
    """A replay got no answer in time. Comes once; the stream keeps trying."""

    endpoint: str


Outcome = Received | CaughtUp | EventsLost | EngineRestarted | NotAnswering


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of waits and queues."""

    check_seconds: float
    """After this long without an event, ask whether one was lost."""
    replay_timeout: float
    """How long the next batch of a replay may take."""
    queue: int
    """Live batches that may wait to be read; what does not fit is replayed."""


@dataclass(frozen=True, slots=True)
class _Message:
    sequence: int
    payload: bytes

    @property
    def digest(self) -> int:
        return xxhash.xxh3_64_intdigest(self.payload)


class KVEventStream:
    """Follows one `EventSource`. Iterate over `outcomes` once; closing the iterator closes the sockets."""

    def __init__(self, source: EventSource, limits: StreamLimits, connect: Connect = connected) -> None:
        self._connect = connect
        self._source = source
        self._limits = limits
        self._expected = 0
        self._last_digest = 0
        self._last_timestamp = 0.0
        self._answering: bool | None = None
        self._reconnected = False
        """The connection is a new one, and not yet known to lead to the same process."""

    async def outcomes(self) -> AsyncGenerator[Outcome]:
        """Yield batches in order, and what else happened to the stream. Ends only after `EngineRestarted`."""
        with self._connect(zmq.SUB, self._source.endpoint, self._limits.queue, self._source.topic) as live:
            steps = self._catch_up()
            while True:
                async with aclosing(steps):
                    async for outcome in steps:
                        yield outcome
                        if isinstance(outcome, EngineRestarted):
                            return
                message = await self._next(live)
                while message and message.sequence == self._expected and not self._reconnected:
                    yield self._take(message)
                    message = await self._next(live)
                steps = self._catch_up() if message is None else self._advance(message)

    async def _next(self, live: EventSocket) -> _Message | None:
        """The next live message; None when it is time to ask whether one was lost."""
        message = await _receive(live, self._limits.check_seconds)
        self._reconnected = live.has_reconnected() or self._reconnected
        return message

    async def _advance(self, message: _Message) -> AsyncGenerator[Outcome]:
        """Take a live message, after replaying what is missing before it."""
        if message.sequence > self._expected or self._reconnected:
            async with aclosing(self._catch_up()) as steps:
                async for outcome in steps:
                    yield outcome
        if self._reconnected:
            return  # nobody answers: the message is replayed when somebody does
        if message.sequence > self._expected:
            yield EventsLost(self._expected, message.sequence - 1)
        if message.sequence >= self._expected:
            yield self._take(message)
        elif _timestamp(message) > self._last_timestamp:
            yield EngineRestarted()  # counts from 0 again, and is newer than what came last: not a repetition

    async def _catch_up(self) -> AsyncGenerator[Outcome]:
        """Replay until nothing is missing, or until the engine does not answer."""
        verdict: Outcome | None = CaughtUp()
        progress = self._source.replay_endpoint is not None
        while progress:
            verdict, before = None, self._expected
            async with aclosing(self._replay()) as steps:
                async for outcome in steps:
                    if isinstance(outcome, CaughtUp | NotAnswering):
                        verdict = outcome
                    else:
                        yield outcome
            num_new = self._expected - before
            progress = num_new >= LONG_REPLAY if isinstance(verdict, CaughtUp) else num_new > 0
        answering = isinstance(verdict, CaughtUp)
        if answering:
            self._reconnected = False
        if verdict is not None and answering is not self._answering:
            self._answering = answering
            yield verdict

    async def _replay(self) -> AsyncGenerator[Outcome]:
        """One request for everything since the last batch seen, and its answer.

        Ends with `CaughtUp`, `NotAnswering` or `EngineRestarted`; with none of them when batches were
        dropped on the way (the engine's socket drops what its queue of 1,000 cannot hold), so that it is
        worth asking again.
        """
        seen = self._expected > 0
        first = self._expected - 1 if seen else 0
        with self._connect(zmq.DEALER, self._source.replay_endpoint or "", REPLAY_QUEUE, None) as dealer:
            dealer.send([b"", first.to_bytes(8, "big")])
            opening = True
            while True:
                message = await _receive(dealer, self._limits.replay_timeout)
                if message is None:
                    yield NotAnswering(self._source.replay_endpoint or "")
                    return
                if opening and seen and not self._continues(message):
                    yield EngineRestarted()
                    return
                if message.sequence == END_OF_REPLAY:
                    yield CaughtUp()
                    return
                if message.sequence > self._expected and not opening:
                    return
                if message.sequence > self._expected or (
                    opening and seen and message.sequence == self._expected
                ):
                    # Without the last batch seen it may be another process that has come just as far.
                    yield EventsLost(min(self._expected, message.sequence - 1), message.sequence - 1)
                if message.sequence >= self._expected:
                    yield self._take(message)
                opening = False

    def _continues(self, opening: _Message) -> bool:
        """Whether a replay that starts with this comes from the process that sent the last batch seen."""
        if opening.sequence == self._expected - 1:
            return opening.digest == self._last_digest
        # The last batch seen has left the engine's buffer; without any batch in it, it never was there.
        return opening.sequence != END_OF_REPLAY and _timestamp(opening) >= self._last_timestamp

    def _take(self, message: _Message) -> Received | EventsLost:
        self._expected, self._last_digest = message.sequence + 1, message.digest
        try:
            batch = decode_batch(message.payload)
        except EventFormatError as error:
            return EventsLost(message.sequence, message.sequence, str(error))
        self._last_timestamp = batch.timestamp
        return Received(message.sequence, batch)


async def _receive(socket: EventSocket, seconds: float) -> _Message | None:
    """The next message, whose last two frames are sequence and payload; None when none comes in time."""
    frames = await socket.receive(seconds)
    if frames is None:
        return None
    *_, sequence, payload = frames
    return _Message(int.from_bytes(sequence, "big", signed=True), payload)


def _timestamp(message: _Message) -> float:
    try:
        return decode_batch(message.payload).timestamp
    except EventFormatError:
        return 0.0
