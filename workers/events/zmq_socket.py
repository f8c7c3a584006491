"""A ZeroMQ socket that one task reads, without the futures and timers of `zmq.asyncio`: with dozens of
engines per agent those cost more than everything that is done with a message.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import zmq

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

Frames = list[bytes]


class EventSocket:
    """A socket as `workers.events.kv_stream` needs it. Needs a running event loop."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._monitor = socket.get_monitor_socket(zmq.EVENT_CONNECTED)
        self._readable = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(int(socket.fd), self._readable.set)

    def send(self, frames: Sequence[bytes]) -> None:
        """Send a message as soon as there is a connection; never waits."""
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    async def receive(self, seconds: float) -> Frames | None:
        """The next message; None when none comes in time."""
        deadline = self._loop.time() + seconds
        while True:
            try:
                return self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                pass
            # The descriptor signals edges: what came before this shows in EVENTS, what comes later wakes.
            self._readable.clear()
            if int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
                continue
            try:
                async with asyncio.timeout_at(deadline):
                    await self._readable.wait()
            except TimeoutError:
                return None

    def has_reconnected(self) -> bool:
        """Whether a connection has been made since this was asked last."""
        reconnected = False
        while int(self._monitor.get(zmq.EVENTS)) & zmq.POLLIN:
            self._monitor.recv_multipart(zmq.NOBLOCK)
            reconnected = True
        return reconnected

    def close(self) -> None:
        """Close it; what has not been sent is dropped."""
        self._loop.remove_reader(int(self._socket.fd))
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)


@contextmanager
def connected(kind: int, endpoint: str, queue: int, topic: str | None = None) -> Iterator[EventSocket]:
    """A socket that connects to an endpoint, and again whenever the connection is lost.

    ``queue`` is how many messages may wait to be read; a SUB socket subscribes to ``topic``.
    """
    raw: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    try:
        raw.set(zmq.RCVHWM, queue)
        raw.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        raw.set(zmq.RECONNECT_IVL_MAX, 1000)
        if topic is not None:
            raw.subscribe(topic.encode())
        socket = EventSocket(raw)
        raw.connect(endpoint)
    except BaseException:
        raw.close(linger=0)
        raise
    try:
        yield socket
    finally:
        socket.close()
