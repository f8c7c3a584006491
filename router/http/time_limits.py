"""Limits on many waits, looked at together: a timer for every read of every stream would cost more."""

import asyncio
from typing import Protocol

NEVER = float("inf")
MAX_AT_ONCE = 64
"""Waits that end in one turn of the event loop, since each may wake a task that answers."""
SHORT_PAUSE_SECONDS = 0.01


class Watched(Protocol):
    """Something that must not wait for ever."""

    deadline: float
    """Time of the event loop, in seconds, after which the wait is over; `NEVER` while nothing is awaited."""

    def overdue(self) -> None:
        """Called once the deadline has passed."""


class Watchdog:
    """Calls `overdue` of whatever has passed its deadline, about ``precision_seconds`` too late at most."""

    def __init__(self, precision_seconds: float) -> None:
        self._precision_seconds = precision_seconds
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, watched: Watched) -> None:
        """Look at it from now on."""
        self._watched.add(watched)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._precision_seconds, self._look)

    def discard(self, watched: Watched) -> None:
        """Look at it no more."""
        self._watched.discard(watched)

    def _look(self) -> None:
        self._timer = None
        if not self._watched:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        overdue = [watched for watched in self._watched if watched.deadline < now]
        pause = SHORT_PAUSE_SECONDS if len(overdue) > MAX_AT_ONCE else self._precision_seconds
        self._timer = loop.call_later(pause, self._look)  # first: `overdue` might raise
        for watched in overdue[:MAX_AT_ONCE]:
            if watched in self._watched:  # still: one that was overdue may have ended others
                watched.overdue()

    def close(self) -> None:
        """Stop looking."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
