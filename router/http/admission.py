"""What clients may take of a router at once: connections, places for requests, and bytes of request bodies.

At the bound of connections one that waits for its client gives way to a new one. Of places and bytes nobody
may have all, so that one client never makes everybody wait. Until a body is complete its bytes count for the
address that it comes from; then the request takes a place, and both count for its party: its tenant, or its
address where there are no tenants.
"""

import gc
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from weakref import WeakValueDictionary

import structlog

from router.errors import OverloadedError

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


def network_of(host: str) -> str:
    """Whose connection it is that comes from this address: of IPv6 a client usually has a /64 to itself."""
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else address.exploded[:19]


@dataclass(slots=True, eq=False, repr=False, weakref_slot=True)
class Party:
    """A tenant or an address, and what it has taken. It is forgotten when nobody holds it any more."""

    requests: int = 0
    body_bytes: int = 0
    """Of complete bodies."""
    arriving_bytes: int = 0
    connections: int = 0
    """Of an address. Those whose request is being answered are only counted."""
    idle: "dict[Entry, None]" = field(default_factory=dict)
    arriving: "dict[Entry, None]" = field(default_factory=dict)
    """Both in the order in which they came here."""


@dataclass(slots=True, eq=False, repr=False)
class Entry:
    """One connection among the others, from its opening to its end."""

    party: Party
    evict: Callable[[], None]
    """Ends the connection at once."""
    _among: "dict[Entry, None] | None" = None

    def wait_among(self, others: "dict[Entry, None] | None") -> None:
        """Its client is waited for, like those of others in its party. None: it has sent a whole request, and
        is not to be given up for another connection.
        """
        if self._among is not others:
            if self._among is not None:
                del self._among[self]
            if others is not None:
                others[self] = None
            self._among = others


class Admission:
    """Bounds connections, open requests, and the bytes of request bodies that are held in memory.

    One party may have three quarters of requests and bytes, and bodies that arrive from one address half of
    the bytes.
    """

    def __init__(self, max_requests: int, max_body_bytes: int, max_connections: int) -> None:
        self.max_requests = max_requests
        self.max_body_bytes = max_body_bytes
        self.max_connections = max_connections
        self.max_requests_of_one = -(-3 * max_requests // 4)
        self.max_body_bytes_of_one = 3 * max_body_bytes // 4
        self.max_arriving_bytes_of_one = max_body_bytes // 2
        self.open = 0
        """Requests that have a place."""
        self.body_bytes = 0
        """Bytes held, of complete and of arriving bodies."""
        self._connections = self._ended = 0
        self._log_again = 0.0
        self._addresses: WeakValueDictionary[str, Party] = WeakValueDictionary()
        self._tenants: WeakValueDictionary[str, Party] = WeakValueDictionary()

    def address(self, host: str) -> Party:
        """The party of a connection, by the address at its other end."""
        return _party(self._addresses, network_of(host))

    def tenant(self, name: str) -> Party:
        """The party of a tenant."""
        return _party(self._tenants, name)

    @property
    def parties(self) -> list[Party]:
        """All that are held."""
        return [*self._addresses.values(), *self._tenants.values()]

    def enter(self, party: Party, evict: Callable[[], None]) -> Entry | None:
        """Count a new connection of an address; None when there is no room for it. Then call `leave`.

        At the bound it takes the place of one that waits for its client.
        """
        if self._connections >= self.max_connections and not self._make_room():
            return None
        party.connections += 1
        self._connections += 1
        return Entry(party, evict)

    def leave(self, entry: Entry) -> None:
        """A connection has ended."""
        entry.wait_among(None)
        entry.party.connections -= 1
        self._connections -= 1
        self._ended += 1
        if self._ended % COLLECTED == 0:
            gc.collect(1)  # what is young: a few milliseconds

    def _make_room(self) -> bool:
        """Give up a connection of the address that has most: idle for longest, or else slowest to ask."""
        parties = list(self._addresses.values())
        if (now := time.monotonic()) >= self._log_again:
            self._log_again = now + LOG_SECONDS
            log.warning("client_connections_limited", limit=self.max_connections, addresses=len(parties))
        candidates = [party for party in parties if party.idle or party.arriving]
        if not candidates:
            return False
        party = max(candidates, key=lambda party: party.connections)
        next(iter(party.idle or party.arriving)).evict()
        return True


def _party(parties: WeakValueDictionary[str, Party], name: str) -> Party:
    party = parties.get(name)
    if party is None:
        party = parties[name] = Party()
    return party


@dataclass(slots=True, eq=False, repr=False)
class Claim:
    """What one request takes, from the first byte of its body to its end. It is given back once."""

    _admission: Admission
    _address: Party
    _bytes: int = 0
    _party: Party | None = None
    """Whose place the request has; None while its body arrives, and after its end."""

    @property
    def party(self) -> Party:
        """Who has the place, or has asked for it."""
        return self._party if self._party is not None else self._address

    def expect(self, size: int) -> None:
        """See whether there is room for so many bytes. Raises `OverloadedError`."""
        admission = self._admission
        if admission.body_bytes + size > admission.max_body_bytes:
            raise OverloadedError("This router holds as many bytes of request bodies as it may.")
        if self._address.arriving_bytes + size > admission.max_arriving_bytes_of_one:
            raise OverloadedError("Too many bytes of request bodies arrive from your address.")

    def add(self, size: int) -> None:
        """Bytes of the body have come. Raises `OverloadedError`, and does not count them."""
        self.expect(size)
        self._bytes += size
        self._admission.body_bytes += size
        self._address.arriving_bytes += size

    def admit(self, tenant: str) -> None:
        """The body is complete: take a place for the tenant, or for the address where that has no name.

        Raises `OverloadedError`.
        """
        admission, size = self._admission, self._bytes
        party = admission.tenant(tenant) if tenant else self._address
        if admission.open >= admission.max_requests:
            raise OverloadedError("This router has as many requests open as it may.")
        if party.requests >= admission.max_requests_of_one:
            raise OverloadedError("You have as many requests open as one client may.")
        if party.body_bytes + size > admission.max_body_bytes_of_one:
            raise OverloadedError("Your open requests hold as many bytes as those of one client may.")
        self._address.arriving_bytes -= size
        party.body_bytes += size
        party.requests += 1
        admission.open += 1
        self._party = party

    def release_body(self) -> None:
        """The body is not held any more."""
        if not self._bytes:
            return
        if self._party is not None:
            self._party.body_bytes -= self._bytes
        else:
            self._address.arriving_bytes -= self._bytes
        self._admission.body_bytes -= self._bytes
        self._bytes = 0

    def close(self) -> None:
        """The request is over."""
        self.release_body()
        if self._party is not None:
            self._party.requests -= 1
            self._admission.open -= 1
            self._party = None
