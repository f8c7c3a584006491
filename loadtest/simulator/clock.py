"""Virtual time: what is to happen, in order."""

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Calls everything at its time; what falls on the same time happens in the order it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        """Virtual seconds since the run began."""
        self._waiting: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call something a number of virtual seconds from now."""
        self._asked += 1
        heapq.heappush(self._waiting, (self.now + seconds, self._asked, call, arguments))

    def run(self) -> None:
        """Let time pass until nothing is left to happen."""
        while self._waiting:
            self.now, _, call, arguments = heapq.heappop(self._waiting)
            call(*arguments)
