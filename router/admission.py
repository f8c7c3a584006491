"""How many requests a router has open at once, from their first byte to the last byte of their answer."""

from router.errors import OverloadedError


class Admission:
    """Bounds open requests, and with them the bodies, tokenisations and streams that are held in memory.

    As a context it counts one request while that is open. Raises `OverloadedError` at the limit.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.open = 0

    def __enter__(self) -> None:
        if self.open >= self._limit:
            raise OverloadedError("This router has as many requests open as it may.")
        self.open += 1

    def __exit__(self, *_: object) -> None:
        self.open -= 1
