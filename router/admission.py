"""How many requests a router has open at once, from their first byte to the last byte of their answer."""

from collections.abc import Iterator
from contextlib import contextmanager

from router.errors import OverloadedError


class Admission:
    """Bounds open requests, and with them the bodies, tokenisations and streams that are held in memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.open = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count one request while the context is open. Raises `OverloadedError` at the limit."""
        if self.open >= self._limit:
            raise OverloadedError("This router has as many requests open as it may.")
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1
