"""What requests may take of a router at once: places, and bytes that the bodies of requests occupy.

Nobody may have all of it, so that one client never makes everybody wait. Until a body is complete its bytes
count for the address that it comes from; then the request takes a place, and both count for its party: its
tenant, or its address where there are no tenants.
"""

from ipaddress import IPv6Address

from router.errors import OverloadedError


def network_of(host: str) -> str:
    """Whose connection it is that comes from this address: of IPv6 a client usually has a /64 to itself."""
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else address.exploded[:19]


class _Shares:
    """Amounts that parties have taken of something, and how much each of them may have."""

    __slots__ = ("_bound", "_taken")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._taken: dict[str, int] = {}

    def has_room(self, party: str, amount: int) -> bool:
        """Whether a party may have so much more."""
        return self._taken.get(party, 0) + amount <= self._bound

    def change(self, party: str, amount: int) -> None:
        """Take or, with a negative amount, give back."""
        total = self._taken.get(party, 0) + amount
        if total:
            self._taken[party] = total
        else:
            self._taken.pop(party, None)


class Admission:
    """Bounds open requests, and the bytes of request bodies that are held in memory.

    One party may have three quarters of either, and bodies that arrive from one address half of the bytes.
    """

    def __init__(self, max_requests: int, max_body_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_body_bytes = max_body_bytes
        self.open = 0
        """Requests that have a place."""
        self.body_bytes = 0
        """Bytes held, of complete and of arriving bodies."""
        self.requests = _Shares(-(-3 * max_requests // 4))
        self.complete = _Shares(3 * max_body_bytes // 4)
        self.arriving = _Shares(max_body_bytes // 2)


class Claim:
    """What one request takes, from the first byte of its body to its end. It is given back once."""

    __slots__ = ("_address", "_admission", "_bytes", "_party")

    def __init__(self, admission: Admission, address: str) -> None:
        self._admission = admission
        self._address = address
        self._bytes = 0
        self._party: str | None = None
        """Whose place the request has; None while its body arrives, and after its end."""

    def expect(self, size: int) -> None:
        """See whether there is room for so many bytes. Raises `OverloadedError`."""
        admission = self._admission
        if admission.body_bytes + size > admission.max_body_bytes:
            raise OverloadedError("This router holds as many bytes of request bodies as it may.")
        if not admission.arriving.has_room(self._address, size):
            raise OverloadedError("Too many bytes of request bodies arrive from your address.")

    def add(self, size: int) -> None:
        """Bytes of the body have come. Raises `OverloadedError`, and does not count them."""
        self.expect(size)
        self._bytes += size
        self._admission.body_bytes += size
        self._admission.arriving.change(self._address, size)

    def admit(self, tenant: str) -> None:
        """The body is complete: take a place for the tenant, or for the address where that has no name.

        Raises `OverloadedError`.
        """
        admission, party = self._admission, tenant or self._address
        if admission.open >= admission.max_requests:
            raise OverloadedError("This router has as many requests open as it may.")
        if not admission.requests.has_room(party, 1):
            raise OverloadedError("You have as many requests open as one client may.")
        if not admission.complete.has_room(party, self._bytes):
            raise OverloadedError("Your open requests hold as many bytes as those of one client may.")
        admission.arriving.change(self._address, -self._bytes)
        admission.complete.change(party, self._bytes)
        admission.requests.change(party, 1)
        admission.open += 1
        self._party = party

    def release_body(self) -> None:
        """The body is not held any more."""
        if not self._bytes:
            return
        admission = self._admission
        if self._party is not None:
            admission.complete.change(self._party, -self._bytes)
        else:
            admission.arriving.change(self._address, -self._bytes)
        admission.body_bytes -= self._bytes
        self._bytes = 0

    def close(self) -> None:
        """The request is over."""
        self.release_body()
        if self._party is not None:
            self._admission.requests.change(self._party, -1)
            self._admission.open -= 1
            self._party = None
