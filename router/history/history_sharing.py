"""Shares history between routers: publishes what this one has counted, and adds what others publish.

Nothing is counted twice: a router publishes each of its buckets once, in order, so one that is not newer than
its last one is the repetition of a write whose outcome was unknown. Without Redis the router's own numbers
are there, and are published later: an hour of buckets, a day of savings.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from cluster.errors import StoreUnavailableError
from router.history.buckets import HELD_BUCKETS, STEP_SECONDS
from router.history.history import History
from router.history.history_store import PAGE, HistoryStore, SharedBucket
from router.history.savings import Savings

POLL_SECONDS = 2.0
IDLE_SECONDS = 10.0
"""How often other routers' buckets are read while nobody reads this history."""
LOOKING_SECONDS = 60.0
"""How long after a read somebody is taken to go on reading."""
SAVINGS_SECONDS = 60.0
"""How often savings are shared."""


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
        """Number of the last bucket that was added, by router."""
        self._next_read = 0.0
        self._next_savings = clock() + SAVINGS_SECONDS

    async def run(self) -> None:
        """Publish and read until cancelled."""
        while True:
            with suppress(StoreUnavailableError):  # the follower logs it
                await self.step()
            await asyncio.sleep(POLL_SECONDS)

    async def step(self) -> None:
        """Publish what is finished, and read where it is time. Raises `StoreUnavailableError`."""
        now = self._clock()
        self._history.advance(now)
        await self._publish()
        somebody_looks = abs(now - self._history.asked_at) < LOOKING_SECONDS
        if somebody_looks or _is_due(self._next_read, now, IDLE_SECONDS):
            await self._read()
            self._next_read = now + IDLE_SECONDS
        await self._history.trends.compact(self._store, now)
        if _is_due(self._next_savings, now, SAVINGS_SECONDS):
            await self._savings.publish()
            self._next_savings = now + SAVINGS_SECONDS

    async def close(self) -> None:
        """Publish everything, the bucket that is not over included. When Redis does not answer it is lost."""
        self._history.finish()
        with suppress(StoreUnavailableError):
            await self._publish()
            await self._savings.publish()

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
            for shared in entries:
                self._last_entry = shared.entry_id
                if shared.router != self._router_id:
                    self._apply(shared)
                await asyncio.sleep(0)  # large ones take a millisecond
            if len(entries) < PAGE:
                break
        oldest = self._clock() // STEP_SECONDS - HELD_BUCKETS
        self._last_buckets = {name: last for name, last in self._last_buckets.items() if last >= oldest}

    def _apply(self, shared: SharedBucket) -> None:
        last = self._last_buckets.get(shared.router, -1)
        with suppress(ValueError):  # written by another version
            self._last_buckets[shared.router] = self._history.merge(shared.bucket, last)


def _is_due(due: float, now: float, period: float) -> bool:
    """Whether it is time for what happens once in a period. A clock that was set back makes nobody wait."""
    return not 0.0 < due - now <= period
