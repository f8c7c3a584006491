"""Many connections of one hostile client, each with something unfinished on it."""

import asyncio
import time
from collections import Counter

SIMULTANEOUS = 100
"""Connections opened at the same time."""


class _Member(asyncio.Protocol):
    """One connection."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what there is to say."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._crowd.first)
        self._crowd.open.add(transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """An answer, of which the first line counts."""
        self._answer = self._answer or data[9:12]

    def connection_lost(self, error: Exception | None) -> None:
        """The router has given it up."""
        self._crowd.open.discard(self._transport)
        self._crowd.ended_at = time.monotonic()
        self._crowd.answers[self._answer.decode() or "none"] += 1


class Crowd:
    """``count`` connections that send ``first`` when they are open, and then nothing more."""

    def __init__(self, port: int, count: int, first: bytes = b"") -> None:
        self._port = port
        self._count = count
        self.first = first
        self.open: set[asyncio.Transport] = set()
        self.answers: Counter[str] = Counter()
        """Of connections that have ended, by status."""
        self.refused = 0
        self.began_at = self.ended_at = 0.0

    async def gather(self) -> None:
        """Open them all."""
        self.began_at = time.monotonic()
        places = asyncio.Semaphore(SIMULTANEOUS)
        await asyncio.gather(*(self._open(places) for _ in range(self._count)))

    async def _open(self, places: asyncio.Semaphore) -> None:
        loop = asyncio.get_running_loop()
        async with places:
            try:
                async with asyncio.timeout(30):
                    await loop.create_connection(lambda: _Member(self), "127.0.0.1", self._port)
            except (OSError, TimeoutError):
                self.refused += 1

    def send(self, data: bytes) -> None:
        """The same on all that are open."""
        for transport in list(self.open):
            transport.write(data)

    async def seconds_to_end(self, limit: float, trickle: bytes = b"") -> float:
        """After how many seconds the router has ended the last; until then each goes on to ``trickle``."""
        while self.open and time.monotonic() - self.began_at < limit:
            if trickle:
                self.send(trickle)
            await asyncio.sleep(0.25)
        return float("inf") if self.open else self.ended_at - self.began_at

    def leave(self) -> None:
        """Close all."""
        for transport in list(self.open):
            transport.abort()

    def __str__(self) -> str:
        return (
            f"{len(self.open)} still open, {self.refused} not accepted, ended by status {dict(self.answers)}"
        )
