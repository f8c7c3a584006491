"""Publishes a simulated engine's cache events on exactly vLLM's wire (`vllm/distributed/kv_events.py`, 0.32).

PUB frames are (topic, 8-byte big-endian sequence, msgpack). A client that missed some asks the ROUTER socket
with (empty, first sequence) and gets (empty, topic, sequence, payload) for each batch still buffered, then
sequence -1.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass

import msgspec
import zmq

from workers.sim.block_manager import AllBlocksCleared, BlockRemoved, BlockStored, Event

END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)
DATA_PARALLEL_RANK = 0


class KVEventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """The events of one engine step."""

    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


@dataclass(frozen=True, slots=True)
class PublisherConfig:
    """How cache events are published; what ``/kv_event_sources`` shows once the endpoints are bound."""

    endpoint: str
    replay_endpoint: str | None
    topic: str = "kv"
    buffer_steps: int = 10_000
    hwm: int = 100_000
    enable_kv_cache_events: bool = True
    publisher: str = "zmq"
    max_queue_size: int = 100_000


class KVPublisher:
    """A bound PUB socket and a ROUTER socket that replays. Needs a running event loop."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], config: PublisherConfig) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._topic = config.topic.encode()
        self._sequence = 0
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=config.buffer_steps)
        self._loop = asyncio.get_running_loop()
        self._pub = context.socket(zmq.PUB)
        self._pub.set_hwm(config.hwm)
        self._replay = context.socket(zmq.ROUTER) if config.replay_endpoint else None
        try:
            self.config = self._bind(config)
        except zmq.ZMQError:
            self._close_sockets()
            raise
        if self._replay is not None:
            self._loop.add_reader(int(self._replay.fd), self._serve_replays)

    def publish(self, events: list[Event]) -> None:
        """Send one step's events. Never waits: a subscriber that cannot keep up loses batches."""
        batch = KVEventBatch(time.time(), events, DATA_PARALLEL_RANK)
        sequence, payload = self._sequence.to_bytes(8, "big"), self._encoder.encode(batch)
        self._pub.send_multipart((self._topic, sequence, payload))
        self._buffer.append((sequence, payload))
        self._sequence += 1

    def close(self) -> None:
        """Unbind; batches not yet sent are dropped."""
        if self._replay is not None:
            self._loop.remove_reader(int(self._replay.fd))
        self._close_sockets()

    def _bind(self, config: PublisherConfig) -> PublisherConfig:
        endpoint = _bind(self._pub, config.endpoint)
        replay = (
            _bind(self._replay, config.replay_endpoint) if self._replay and config.replay_endpoint else None
        )
        return PublisherConfig(endpoint, replay, config.topic, config.buffer_steps, config.hwm)

    def _close_sockets(self) -> None:
        self._pub.close(linger=0)
        if self._replay is not None:
            self._replay.close(linger=0)

    def _serve_replays(self) -> None:
        """Answer all waiting requests: the descriptor signals edges, so stopping early loses the rest."""
        assert self._replay is not None
        while int(self._replay.get(zmq.EVENTS)) & zmq.POLLIN:
            frames = self._replay.recv_multipart(zmq.NOBLOCK)
            if len(frames) == 3:
                self._answer(self._replay, frames[0], frames[2])

    def _answer(self, replay: zmq.Socket[bytes], client: bytes, first: bytes) -> None:
        # As in vLLM the socket has the default high-water mark: a slow client loses batches, and must notice.
        for sequence, payload in self._buffer:
            if int.from_bytes(sequence, "big") >= int.from_bytes(first, "big"):
                replay.send_multipart((client, b"", self._topic, sequence, payload))
        replay.send_multipart((client, b"", b"", END_OF_REPLAY, b""))


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind and return the address to connect to; a TCP port of 0 becomes the one that the system gave."""
    if endpoint.startswith("tcp://") and endpoint.endswith(":0"):
        socket.bind(endpoint[:-1] + "*")
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)
    socket.bind(endpoint)
    return endpoint
