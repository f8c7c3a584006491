"""Remembers the last requests, so that any of them can be explained: what the decision saw, what came of it.

Each router keeps its own. A sample is shared through Redis, so that other routers, and other workers behind
the same port, can show and explain it, too.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from heapq import nlargest
from itertools import islice
from typing import NamedTuple

import msgspec

from cluster.errors import StoreUnavailableError
from cluster.protocol.wire import Keys
from cluster.store.commands import RedisClient
from router.explain.misses import Reason
from router.history.record import RequestRecord
from router.observe.request_summary import RequestExplanation, RequestSummary, explain, summarise
from router.observe.shared_log import SharedLog

MAX_RECORDS = 1_000
MAX_BYTES = 32 * 1024 * 1024
"""About so much memory is used here: a record takes `RECORD_BYTES`, and `ROW_BYTES` for each replica of its
model."""
RECORD_BYTES = 1_500
ROW_BYTES = 64
MAX_SHARED = 1_000
"""Redis keeps about so many entries of all routers."""
SHARED_PER_SECOND = 10
"""How many entries one router shares at most."""
PUBLISH_SECONDS = 0.5
UNEXPECTED = (
    Reason.DIVERGED,
    Reason.RE_RENDERED,
    Reason.EVICTED,
    Reason.REPLICA_LOST,
    Reason.DIVERTED,
    Reason.UNKNOWN,
)
"""Reasons of misses that an operator may want to look into."""


class Finished(NamedTuple):
    """A request that has ended. Times are monotonic seconds."""

    record: RequestRecord
    ttft: float | None
    ended: float


class Explanations:
    """The last requests of one router, and the shared ones of all. `run` shares."""

    def __init__(self, redis: RedisClient, keys: Keys, router: str) -> None:
        self._shared = SharedLog(redis, f"{keys.prefix}:requests", RequestExplanation)
        self._router = router
        self._finished: deque[Finished] = deque()
        self._num_bytes = 0
        self.num_added = 0
        """How many requests have ever been added."""
        self._num_looked_at = 0

    def add(self, record: RequestRecord, ttft: float | None, ended: float) -> None:
        """Remember a finished request; ``ended`` is a monotonic time in seconds."""
        finished = self._finished
        finished.append(Finished(record, ttft, ended))
        self.num_added += 1
        self._num_bytes += _size(record)
        while len(finished) > MAX_RECORDS or self._num_bytes > MAX_BYTES:
            self._num_bytes -= _size(finished.popleft().record)

    async def run(self) -> None:
        """Share a sample of what has ended, twice a second, until cancelled."""
        while True:
            await asyncio.sleep(PUBLISH_SECONDS)
            with suppress(StoreUnavailableError):  # the follower logs it
                await self._publish()

    def newest(self, limit: int) -> list[RequestSummary]:
        """The last requests of this router, the newest first."""
        offset = _wall_offset()
        return [summarise(*finished, offset) for finished in islice(reversed(self._finished), limit)]

    def added_since(self, number: int, limit: int) -> tuple[int, list[RequestSummary]]:
        """Requests of this router that have ended since a number that this returned before, at most so many
        of the newest; and the number for the next time.
        """
        return self.num_added, self.newest(min(limit, self.num_added - number))

    async def recent(self, limit: int) -> list[RequestSummary]:
        """The last requests of this router and the shared ones of the others, the newest first."""
        summaries = {summary.request_id: summary for summary in reversed(self.newest(limit))}
        with suppress(StoreUnavailableError):
            for other in await self._shared.newest(limit):
                summaries.setdefault(other.request_id, _summary_of(other))
        return sorted(summaries.values(), key=lambda summary: -summary.time)[:limit]

    async def shared_since(self, last: bytes, limit: int) -> tuple[bytes, list[RequestSummary]]:
        """Requests that other routers have shared after an entry, at most so many, the newest first; and the
        last entry's id. An empty id stands for the newest there is. Raises `StoreUnavailableError`.
        """
        newest, entries = await self._shared.since(last, limit)
        return newest, [_summary_of(other) for other in entries if other.router != self._router]

    async def explain(self, request_id: str) -> RequestExplanation | None:
        """One request with its decision; None when nobody remembers it. Of several to which their clients
        gave the same id, the last one.
        """
        for finished in reversed(self._finished):
            if request_id in (finished.record.request_id, finished.record.client_id):
                return explain(*finished, _wall_offset(), self._router)
        with suppress(StoreUnavailableError):
            for other in await self._shared.newest(MAX_SHARED, request_id):
                return other
        return None

    async def _publish(self) -> None:
        num_new = min(self.num_added - self._num_looked_at, len(self._finished))
        self._num_looked_at = self.num_added
        offset = _wall_offset()
        for finished in sample(
            islice(reversed(self._finished), num_new), round(SHARED_PER_SECOND * PUBLISH_SECONDS)
        ):
            explanation = explain(*finished, offset, self._router)
            await self._shared.add(explanation, MAX_SHARED, explanation.request_id)


def sample(finished: Iterable[Finished], limit: int) -> list[Finished]:
    """The requests that an operator would rather look into: failures, divergence, large unexpected misses."""
    return nlargest(limit, finished, key=_weight)


def _weight(finished: Finished) -> tuple[int, int]:
    record = finished.record
    if record.outcome in ("failed", "broken"):
        return 2, 0
    unexpected = sum(record.misses.get(reason, 0) for reason in UNEXPECTED) if record.misses else 0
    return int(record.divergence is not None), unexpected


def _size(record: RequestRecord) -> int:
    return RECORD_BYTES + (ROW_BYTES * len(record.considered.replicas) if record.considered else 0)


def _wall_offset() -> float:
    """What has to be added to monotonic seconds to get those since 1970."""
    return time.time() - time.monotonic()


def _summary_of(explanation: RequestExplanation) -> RequestSummary:
    return msgspec.convert(explanation, RequestSummary, from_attributes=True)
