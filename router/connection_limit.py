"""How many connections of clients a router holds, and whose gives way to a new one."""

import resource
import time
from typing import Protocol, TypeAlias

import structlog

RESERVED_FILES = 64
"""For listening, Redis, logs, metrics, tokenizers that are read."""
FILES_PER_CLIENT = 3
"""Its connection; one to the engine that answers it; one that idles at an engine asked a moment ago."""
MAX_CONNECTIONS = 16_384
"""However many files there may be: each holds some kilobytes."""
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


class Evictable(Protocol):
    """A connection that can be given up."""

    def evict(self) -> None:
        """End at once."""


Connections: TypeAlias = dict[Evictable, None]
"""In the order in which they came here."""


class Peer:
    """The connections of one address. Those with a request that is being answered are only counted."""

    __slots__ = ("arriving", "count", "idle")

    def __init__(self) -> None:
        self.count = 0
        self.idle: Connections = {}
        self.arriving: Connections = {}
        """Whose request is not complete; new connections, too."""


class ConnectionLimit:
    """Bounds connections. At the bound a new one takes the place of one that waits for its client."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._peers: dict[str, Peer] = {}
        self._log_again = 0.0

    def enter(self, address: str) -> Peer | None:
        """Count a new connection from an address; None when there is no room for it. Then call `leave`."""
        if self._count >= self._limit and not self._make_room():
            return None
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = Peer()
        peer.count += 1
        self._count += 1
        return peer

    def leave(self, address: str) -> None:
        """A connection has ended."""
        peer = self._peers[address]
        peer.count -= 1
        self._count -= 1
        if not peer.count:
            del self._peers[address]

    def _make_room(self) -> bool:
        """Give up a connection of the address that has most: idle for longest, or else slowest to ask."""
        self._warn()
        candidates = [peer for peer in self._peers.values() if peer.idle or peer.arriving]
        if not candidates:
            return False
        peer = max(candidates, key=lambda peer: peer.count)
        next(iter(peer.idle or peer.arriving)).evict()
        return True

    def _warn(self) -> None:
        if (now := time.monotonic()) >= self._log_again:
            self._log_again = now + LOG_SECONDS
            log.warning("client_connections_at_limit", limit=self._limit, addresses=len(self._peers))
