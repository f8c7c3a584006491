"""Makes the history of one router that of all: tells what it has counted, and takes in what others tell.

Nothing is counted twice: a router tells each of its buckets once, in order, so one that is not newer than its
last one is the repetition of a write whose outcome was unknown. Without Redis the router's own numbers are
there, and are told later: an hour of buckets, a day of savings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from cluster.errors import StoreUnavailableError
from router.history.buckets import HELD_BUCKETS, STEP_SECONDS
from router.history.history import History
from router.history.history_store import PAGE, HistoryStore, Told
from router.history.savings import Savings

POLL_SECONDS = 2.0
IDLE_SECONDS = 10.0
"""How often the others are read while nobody looks."""
LOOKING_SECONDS = 60.0
"""How long after a question somebody is taken to look."""
SAVINGS_SECONDS = 60.0
"""How often savings are told."""


class HistorySharing:
    """The one task that keeps a history up to date. `run` does it until cancelled; then `close`."""

    def __init__(
        self,
        history: History,
        savings: Savings,
        store: HistoryStore,
        router_id: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._history = history
        self._savings = savings
        self._store = store
        self._router_id = router_id
        self._clock = clock
        self._last_entry = ""
        self._last_buckets: dict[str, int] = {}
        """Number of the last bucket taken in, by router."""
        self._next_read = 0.0
        self._next_savings = clock() + SAVINGS_SECONDS

    async def run(self) -> None:
        """Tell and read until cancelled."""
        while True:
            with suppress(StoreUnavailableError):  # the follower says so
                await self.step()
            await asyncio.sleep(POLL_SECONDS)

    async def step(self) -> None:
        """Tell what is finished, and read where it is time. Raises `StoreUnavailableError`."""
        now = self._clock()
        self._history.advance(now)
        await self._publish()
        somebody_looks = abs(now - self._history.asked_at) < LOOKING_SECONDS
        if somebody_looks or _is_due(self._next_read, now, IDLE_SECONDS):
            await self._read()
            self._next_read = now + IDLE_SECONDS
        if _is_due(self._next_savings, now, SAVINGS_SECONDS):
            await self._savings.tell()
            self._next_savings = now + SAVINGS_SECONDS

    async def close(self) -> None:
        """Tell everything, the bucket that is not over included. When Redis does not answer it is lost."""
        self._history.finish()
        with suppress(StoreUnavailableError):
            await self._publish()
            await self._savings.tell()

    async def _publish(self) -> None:
        finished = self._history.finished
        while finished:
            bucket = finished[0]
            await self._store.append(bucket)
            if finished and finished[0] is bucket:  # meanwhile it may have become too old
                finished.popleft()

    async def _read(self) -> None:
        while True:
            entries = await self._store.read(self._last_entry)
            for told in entries:
                self._last_entry = told.entry_id
                if told.router != self._router_id:
                    self._apply(told)
                await asyncio.sleep(0)  # large ones take a millisecond
            if len(entries) < PAGE:
                break
        oldest = self._clock() // STEP_SECONDS - HELD_BUCKETS
        self._last_buckets = {name: last for name, last in self._last_buckets.items() if last >= oldest}

    def _apply(self, told: Told) -> None:
        last = self._last_buckets.get(told.router, -1)
        with suppress(ValueError):  # written by another version
            self._last_buckets[told.router] = self._history.merge(told.bucket, last)


def _is_due(due: float, now: float, period: float) -> bool:
    """Whether it is time for what happens once in a period. A clock that was set back makes nobody wait."""
    return not 0.0 < due - now <= period
