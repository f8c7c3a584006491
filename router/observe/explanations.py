"""Remembers the last requests, so that any of them can be explained: what the decision saw, what came of it.

Each router keeps its own. A sample is shared through Redis, so that other routers, and other workers behind
the same port, can show and explain it, too.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from heapq import nlargest
from itertools import islice
from typing import Any, NamedTuple, cast

import msgspec

from cluster.errors import StoreUnavailableError
from cluster.protocol.wire import Keys
from cluster.store.commands import Commands, RedisClient
from router.answers.general import RequestExplanation, RequestSummary
from router.explain.misses import Reason
from router.history.record import RequestRecord
from router.observe.request_summary import explain, summarise

MAX_RECORDS = 1_000
MAX_BYTES = 32 * 1024 * 1024
"""Of what is kept here, roughly: a record takes `RECORD_BYTES`, and `ROW_BYTES` for each replica of its
model."""
RECORD_BYTES = 1_500
ROW_BYTES = 64
MAX_SHARED = 1_000
"""Entries of all routers in Redis."""
SHARED_PER_SECOND = 10
"""Of one router."""
PUBLISH_SECONDS = 0.5
UNEXPECTED = (Reason.DIVERGED, Reason.EVICTED, Reason.REPLICA_LOST, Reason.DIVERTED, Reason.UNKNOWN)
"""Reasons of misses that an operator may want to look into."""


class Finished(NamedTuple):
    """A request that has ended. Monotonic seconds."""

    record: RequestRecord
    ttft: float | None
    ended: float


class Explanations:
    """The last requests of one router, and the shared ones of all. `run` shares."""

    def __init__(self, redis: RedisClient, keys: Keys, router: str) -> None:
        self._execute = Commands.of(redis).execute
        self._key = f"{keys.prefix}:requests"
        self._router = router
        self._finished: deque[Finished] = deque()
        self._num_bytes = 0
        self.num_added = 0
        """How many there have ever been."""
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
            with suppress(StoreUnavailableError):  # the follower says so
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
        summaries = {summary["request_id"]: summary for summary in reversed(self.newest(limit))}
        with suppress(StoreUnavailableError):
            for other in await self._shared(limit):
                summaries.setdefault(other["request_id"], _summary_of(other))
        return sorted(summaries.values(), key=lambda summary: -summary["time"])[:limit]

    async def shared_since(self, last: bytes, limit: int) -> tuple[bytes, list[RequestSummary]]:
        """Requests that other routers have shared after an entry, at most so many, the newest first; and the
        last entry's id. An empty id stands for the newest there is. Raises `StoreUnavailableError`.
        """
        start = b"(" + last if last else b"-"
        entries: Any = await self._execute("XREVRANGE", self._key, "+", start, "COUNT", limit if last else 1)
        newest: bytes = entries[0][0] if entries else last or b"0-0"
        others = [one for one in _decoded(entries if last else ()) if one["router"] != self._router]
        return newest, [_summary_of(other) for other in others]

    async def explain(self, request_id: str) -> RequestExplanation | None:
        """One request with its decision; None when nobody remembers it."""
        for finished in reversed(self._finished):
            if finished.record.request_id == request_id:
                return explain(*finished, _wall_offset(), self._router)
        with suppress(StoreUnavailableError):
            for other in await self._shared(MAX_SHARED, request_id.encode()):
                return other
        return None

    async def _publish(self) -> None:
        num_new = min(self.num_added - self._num_looked_at, len(self._finished))
        self._num_looked_at = self.num_added
        offset = _wall_offset()
        for finished in sample(
            islice(reversed(self._finished), num_new), round(SHARED_PER_SECOND * PUBLISH_SECONDS)
        ):
            await self._execute(
                "XADD", self._key, "MAXLEN", "~", MAX_SHARED, "*",
                "id", finished.record.request_id,
                "request", msgspec.json.encode(explain(*finished, offset, self._router)),
            )  # fmt: skip

    async def _shared(self, limit: int, request_id: bytes = b"") -> list[RequestExplanation]:
        """What is in Redis, the newest first; of one request when its id is given."""
        entries: Any = await self._execute("XREVRANGE", self._key, "+", "-", "COUNT", limit)
        wanted = [entry for entry in entries if not request_id or entry[1].get(b"id") == request_id]
        return list(_decoded(wanted))


def sample(finished: Iterable[Finished], limit: int) -> list[Finished]:
    """Those that an operator would rather look into: failures, divergence, large unexpected misses."""
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


def _decoded(entries: Iterable[Any]) -> Iterator[RequestExplanation]:
    for _, fields in entries:
        with suppress(msgspec.DecodeError, KeyError):  # a router of another version
            yield msgspec.json.decode(fields[b"request"], type=RequestExplanation)


def _summary_of(explanation: RequestExplanation) -> RequestSummary:
    names = RequestSummary.__annotations__
    return cast(RequestSummary, {name: value for name, value in explanation.items() if name in names})
