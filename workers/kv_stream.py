"""A stream of one engine's KV events in strict order; whatever is missing is replayed, or reported as lost.

It subscribes first and replays then, so that nothing falls between. Every replay starts with the last batch
already seen: when the engine answers with another one, or with none, it is another process than before.
While nothing comes the engine is asked now and then, because the last batches before a silence can be lost
too.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import xxhash
import zmq
import zmq.asyncio

from workers.errors import EventFormatError
from workers.kv_events import EventBatch, EventSource, decode_batch

END_OF_REPLAY = -1
REPLAY_QUEUE = 20_000
"""Batches of a replay that may wait to be read: vLLM buffers 10,000."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


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

    def __init__(self, context: zmq.asyncio.Context, source: EventSource, limits: StreamLimits) -> None:
        self._context = context
        self._source = source
        self._limits = limits
        self._expected = 0
        self._last_digest = 0
        self._last_timestamp = 0.0
        self._answering: bool | None = None

    async def outcomes(self) -> AsyncGenerator[Outcome]:
        """Yield batches in order, and what else happened to the stream. Ends only after `EngineRestarted`."""
        with self._socket(zmq.SUB, self._source.endpoint, self._limits.queue) as live:
            live.subscribe(self._source.topic.encode())
            steps = self._catch_up()
            while True:
                async with aclosing(steps):
                    async for outcome in steps:
                        yield outcome
                        if isinstance(outcome, EngineRestarted):
                            return
                message = await _receive(live, self._limits.check_seconds)
                steps = self._catch_up() if message is None else self._advance(message)

    async def _advance(self, message: _Message) -> AsyncGenerator[Outcome]:
        """Take a live message, after replaying what is missing before it."""
        if message.sequence > self._expected:
            async with aclosing(self._catch_up()) as steps:
                async for outcome in steps:
                    yield outcome
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
            progress = not isinstance(verdict, CaughtUp) and self._expected > before
        answering = isinstance(verdict, CaughtUp)
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
        with self._socket(zmq.DEALER, self._source.replay_endpoint or "", REPLAY_QUEUE) as dealer:
            await dealer.send_multipart([b"", first.to_bytes(8, "big")])
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
                if message.sequence > self._expected:
                    if not opening:
                        return
                    yield EventsLost(self._expected, message.sequence - 1)
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

    @contextmanager
    def _socket(self, kind: int, endpoint: str, queue: int) -> Iterator[zmq.asyncio.Socket]:
        socket = self._context.socket(kind)
        try:
            socket.set(zmq.RCVHWM, queue)
            socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
            socket.set(zmq.RECONNECT_IVL_MAX, 1000)
            socket.connect(endpoint)
            yield socket
        finally:
            socket.close(linger=0)


async def _receive(socket: zmq.asyncio.Socket, seconds: float) -> _Message | None:
    """The next message, whose last two frames are sequence and payload; None when none comes in time."""
    if not await socket.poll(round(seconds * 1000)):
        return None
    *_, sequence, payload = await socket.recv_multipart()
    return _Message(int.from_bytes(sequence, "big", signed=True), payload)


def _timestamp(message: _Message) -> float:
    try:
        return decode_batch(message.payload).timestamp
    except EventFormatError:
        return 0.0
