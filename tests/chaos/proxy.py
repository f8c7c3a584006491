"""A TCP link that a test can cut, blackhole or slow down, for everybody or for one process on this machine.

`Link` listens on a port of its own and forwards every connection to one target on the loopback interface.
"""

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

HOST = "127.0.0.1"
EVERYBODY = ""
CHUNK = 64 * 1024
PORTS = range(12_000, 30_000)
"""Below the ports that the system gives to outgoing connections, so that a closed one stays free."""

_given: set[int] = set()


def reserve_port() -> int:
    """A free port that nobody gets by accident while its owner is away."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            if port not in _given:
                _given.add(port)
                return port


class Mode(StrEnum):
    """What happens to the bytes of a link."""

    PASS = "pass"
    CUT = "cut"
    """Connections are reset, old and new ones."""
    BLACKHOLE = "blackhole"
    """Connections are accepted and stay open, but nothing arrives until the link is back."""
    DELAY = "delay"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A mode, and by how many seconds `Mode.DELAY` holds bytes back in each direction."""

    mode: Mode = Mode.PASS
    seconds: float = 0.0


PASS = Behaviour()


class Link:
    """One link. ``identify`` names the process at the other end of a client's port."""

    def __init__(self, name: str, target: int, identify: Callable[[int, int], str] | None = None) -> None:
        self.name = name
        self.port = reserve_port()
        self.target = target
        self._identify = identify
        self._behaviours: dict[str, Behaviour] = {}
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def num_open(self) -> int:
        """Connections under way."""
        return len(self._tasks)

    async def listen(self) -> None:
        """Accept connections. Harmless when repeated."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, HOST, self.port, backlog=512)

    def refuse(self) -> None:
        """Stop listening and reset what is open, as when the process behind it is killed."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset(EVERYBODY)

    async def close(self) -> None:
        """End everything."""
        self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def behave(self, behaviour: Behaviour, origin: str = EVERYBODY) -> None:
        """Change the link for one origin or for everybody; what is set for an origin wins."""
        if behaviour.mode is Mode.PASS:
            self._behaviours.pop(origin, None)
        else:
            self._behaviours[origin] = behaviour
        if behaviour.mode is Mode.CUT:
            self._reset(origin)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _behaviour(self, origin: str) -> Behaviour:
        return self._behaviours.get(origin) or self._behaviours.get(EVERYBODY) or PASS

    def _reset(self, origin: str) -> None:
        for writer, owner in list(self._open.items()):
            if origin in (EVERYBODY, owner):
                reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        origin = EVERYBODY
        if self._identify is not None:
            origin = self._identify(writer.get_extra_info("peername")[1], self.port)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open[writer] = origin
        try:
            with contextlib.suppress(OSError, RuntimeError):  # uvloop's word for a connection that is closed
                await self._forward(reader, writer, origin)
        finally:
            reset(writer)
            del self._open[writer]
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, origin: str) -> None:
        await self._pass(origin)
        there_reader, there_writer = await asyncio.open_connection(HOST, self.target)
        self._open[there_writer] = origin
        pumps = [
            asyncio.ensure_future(self._pump(reader, there_writer, origin)),
            asyncio.ensure_future(self._pump(there_reader, writer, origin)),
        ]
        try:
            await asyncio.gather(*pumps)
            writer.close()
            there_writer.close()
            await writer.wait_closed()
        finally:
            for pump in pumps:
                pump.cancel()
            reset(there_writer)
            del self._open[there_writer]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, origin: str) -> None:
        while True:
            try:
                data = await reader.read(CHUNK)
            except OSError:
                await self._pass(origin)  # a reset does not get through a blackhole either
                raise
            await self._pass(origin)
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    async def _pass(self, origin: str) -> None:
        """Wait as long as these bytes have to. Raises `ConnectionResetError` when the link is cut."""
        delayed = False
        while (behaviour := self._behaviour(origin)).mode is not Mode.PASS:
            if behaviour.mode is Mode.CUT:
                raise ConnectionResetError(self.name)
            if behaviour.mode is Mode.DELAY:
                if delayed:
                    return
                delayed = True
                await asyncio.sleep(behaviour.seconds)
            else:
                await self._changed.wait()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset instead of an orderly end; nothing happens when it is closed."""
    if writer.transport.is_closing():
        return
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(_descriptor(writer))) as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _descriptor(writer: asyncio.StreamWriter) -> int:
    return int(writer.get_extra_info("socket").fileno())


class ProcessFinder:
    """Names the process that holds the client end of a loopback connection, among the ones it is told."""

    def __init__(self, processes: Callable[[], dict[int, str]]) -> None:
        self._processes = processes

    def __call__(self, client_port: int, server_port: int) -> str:
        """The name, or "?" when it is none of them."""
        inode = _inode(client_port, server_port)
        for pid, name in self._processes().items():
            with contextlib.suppress(OSError):
                for descriptor in os.listdir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink(f"/proc/{pid}/fd/{descriptor}") == f"socket:[{inode}]":
                            return name
        return "?"


def _inode(client_port: int, server_port: int) -> str:
    ends = f"0100007F:{client_port:04X} 0100007F:{server_port:04X} "
    for line in Path("/proc/net/tcp").read_text().splitlines():
        if ends in line:
            return line.split()[9]
    return ""
