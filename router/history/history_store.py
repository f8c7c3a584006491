"""What routers share of the past, in Redis: a stream of finished buckets, and sums of each hour."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from cluster.protocol.wire import Keys
from cluster.store.commands import Commands, RedisClient, Script
from router.history.tallies import Column, Row

HOUR_SECONDS = 3600
MAX_ENTRIES = 10_000
"""The stream keeps so many entries: an hour of 27 routers that are never idle. With more routers a new one
learns of less."""
PAGE = 20
"""Entries read at once: up to 15 KB each with 256 replicas."""
SAVINGS_SECONDS = 8 * 24 * HOUR_SECONDS
MAX_ADDED = 512
"""Pairs in one addition to the sums, so that Redis is never held up for long."""

Pair: TypeAlias = tuple[str, str]
"""Replica and model."""
SAVED_COLUMNS = (
    Column.REQUESTS,
    Column.PROMPT_TOKENS,
    Column.DELIVERED_TOKENS,
    Column.SAVED_MICROSECONDS,
    Column.PRICED_TOKENS,
)
"""What is kept of a row of sums."""


class SharedBucket(NamedTuple):
    """A finished bucket that some router has written."""

    entry_id: str
    router: str
    bucket: bytes


class HourSums(NamedTuple):
    """One hour in Redis."""

    pairs: dict[Pair, Row]
    """Sums of `SAVED_COLUMNS`."""
    sequence: int
    """The number of this router's last addition; 0 when there was none."""


class HistoryStore:
    """The past in Redis. Every method raises `StoreUnavailableError` when Redis does not answer."""

    def __init__(self, redis: RedisClient, keys: Keys, router_id: str) -> None:
        self._execute = Commands.of(redis).execute
        self._save = Script(redis, "save")
        self._stream = f"{keys.prefix}:history"
        self._savings = f"{keys.prefix}:savings"
        self._trends = f"{keys.prefix}:trends"
        self._router_id = router_id

    async def append(self, bucket: bytes) -> None:
        """Write a finished bucket of this router, for an hour."""
        oldest = _stream_id(time.time() - HOUR_SECONDS)
        entry = ("router", self._router_id, "bucket", bucket)
        await self._execute("XADD", self._stream, "MAXLEN", "~", MAX_ENTRIES, "*", *entry)
        await self._execute("XTRIM", self._stream, "MINID", "~", oldest)
        await self._execute("EXPIRE", self._stream, HOUR_SECONDS)

    async def read(self, after: str) -> list[SharedBucket]:
        """The next entries after an id; "" begins an hour ago."""
        start = f"({after}" if after else _stream_id(time.time() - HOUR_SECONDS)
        answer = await self._execute("XRANGE", self._stream, start, "+", "COUNT", PAGE)
        return [
            SharedBucket(entry_id.decode(), fields.get(b"router", b"").decode(), fields.get(b"bucket", b""))
            for entry_id, fields in answer
        ]

    async def add_savings(self, hour: int, sequence: int, expected: int, sums: Mapping[Pair, Row]) -> int:
        """Add to the sums of an hour, if the last addition of this router is the expected one. Returns the
        last addition's number, as it was."""
        arguments: list[str | bytes | int] = [self._fence, sequence, expected, SAVINGS_SECONDS]
        for pair, counts in sums.items():
            for column, count in enumerate(counts):
                arguments += [msgspec.json.encode((*pair, column)), count]
        return int(await self._save([self._hour(hour)], arguments))

    async def savings(self, hour: int) -> HourSums:
        """The sums of all routers in one hour."""
        fields: dict[bytes, bytes] = await self._execute("HGETALL", self._hour(hour))
        columns: dict[Pair, list[int]] = {}
        for field, count in fields.items():
            if field.startswith(b"["):
                replica, model, column = _field_decoder.decode(field)
                columns.setdefault((replica, model), [0] * len(SAVED_COLUMNS))[column] = int(count)
        pairs = {pair: tuple(row) for pair, row in columns.items()}
        return HourSums(pairs, int(fields.get(self._fence.encode(), 0)))

    async def add_period(self, step: int, number: int, kept: int, encoded: bytes) -> None:
        """Write a period of trends unless it is there, and drop what is older than so many."""
        key = f"{self._trends}:{step}"
        await self._execute("HSETNX", key, number, encoded)
        await self._execute("HDEL", key, *range(number - 2 * kept, number - kept + 1))
        await self._execute("EXPIRE", key, SAVINGS_SECONDS)

    async def periods(self, step: int, numbers: Sequence[int]) -> AsyncIterator[tuple[int, bytes]]:
        """Periods of trends that are there, by number; empty ones had no requests."""
        for first in range(0, len(numbers), PAGE):
            page = numbers[first : first + PAGE]
            answers = await self._execute("HMGET", f"{self._trends}:{step}", *page)
            for number, encoded in zip(page, answers, strict=True):
                if encoded is not None:
                    yield number, encoded

    @property
    def _fence(self) -> str:
        return f"router:{self._router_id}"

    def _hour(self, hour: int) -> str:
        return f"{self._savings}:{hour}"


_field_decoder = msgspec.json.Decoder(tuple[str, str, int])


def _stream_id(seconds: float) -> str:
    """Where a moment lies in a stream whose ids Redis gives."""
    return f"{int(seconds * 1000)}-0"
