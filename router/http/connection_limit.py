"""How many connections of clients a router holds, and whose gives way to a new one."""

import gc
import resource
import time
from typing import Protocol

import structlog

RESERVED_FILES = 64
"""For listening, Redis, logs, metrics, tokenizers that are read."""
FILES_PER_CLIENT = 3
"""Its connection; one to the engine that answers it; one that idles at an engine asked a moment ago."""
MAX_CONNECTIONS = 16_384
"""However many files there may be: each holds some kilobytes."""
COLLECTED = 1024
"""Connections that have ended before the garbage collector looks for them. Each is a cycle of 11 KiB, and it
would come by itself only once several thousand have.
"""
LOG_SECONDS = 60.0

log = structlog.get_logger()


def raise_file_limit() -> None:
    """Let this process open as many files as it may without privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_connections() -> int:
    """How many clients the file limit leaves room for, all of them with a request open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min((soft - RESERVED_FILES) // FILES_PER_CLIENT, MAX_CONNECTIONS))


class Connection(Protocol):
    """What is bounded."""

    def evict(self) -> None:
        """End at once."""


class _Peer:
    """The connections of one address. Those whose request is being answered are only counted."""

    __slots__ = ("address", "arriving", "count", "idle")

    def __init__(self, address: str) -> None:
        self.address = address
        self.count = 0
        self.idle: dict[Entry, None] = {}
        self.arriving: dict[Entry, None] = {}
        """Both in the order in which they came here."""


class Entry:
    """One connection among the others, from its opening to its end."""

    __slots__ = ("_among", "_peer", "connection")

    def __init__(self, connection: Connection, peer: _Peer) -> None:
        self.connection = connection
        self._peer = peer
        self._among: dict[Entry, None] | None = None

    def is_idle(self) -> None:
        """Its client has asked for nothing more."""
        self._move(self._peer.idle)

    def is_arriving(self) -> None:
        """Its request is not complete, or it is new."""
        self._move(self._peer.arriving)

    def is_answered(self) -> None:
        """It has a whole request, and is not to be given up for another connection."""
        self._move(None)

    def _move(self, to: "dict[Entry, None] | None") -> None:
        if self._among is not to:
            if self._among is not None:
                del self._among[self]
            if to is not None:
                to[self] = None
            self._among = to


class ConnectionLimit:
    """Bounds connections. At the bound a new one takes the place of one that waits for its client."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._num_left = 0
        self._peers: dict[str, _Peer] = {}
        self._log_again = 0.0

    def enter(self, connection: Connection, address: str) -> Entry | None:
        """Count a new connection from an address; None when there is no room for it. Then call `leave`."""
        if self._count >= self._limit and not self._make_room():
            return None
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = _Peer(address)
        peer.count += 1
        self._count += 1
        return Entry(connection, peer)

    def leave(self, entry: Entry) -> None:
        """A connection has ended."""
        entry.is_answered()
        peer = entry._peer
        peer.count -= 1
        self._count -= 1
        if not peer.count:
            del self._peers[peer.address]
        self._num_left += 1
        if self._num_left % COLLECTED == 0:
            gc.collect(1)  # what is young: a few milliseconds

    def _make_room(self) -> bool:
        """Give up a connection of the address that has most: idle for longest, or else slowest to ask."""
        self._warn()
        candidates = [peer for peer in self._peers.values() if peer.idle or peer.arriving]
        if not candidates:
            return False
        peer = max(candidates, key=lambda peer: peer.count)
        next(iter(peer.idle or peer.arriving)).connection.evict()
        return True

    def _warn(self) -> None:
        if (now := time.monotonic()) >= self._log_again:
            self._log_again = now + LOG_SECONDS
            log.warning("client_connections_at_limit", limit=self._limit, addresses=len(self._peers))
