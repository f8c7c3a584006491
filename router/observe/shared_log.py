"""A bounded list in Redis to which all routers add and from which each reads: a stream of structs."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from cluster.store.commands import Commands, RedisClient

T = TypeVar("T")


class SharedLog(Generic[T]):
    """One list. Every method raises `StoreUnavailableError` when Redis does not answer."""

    def __init__(self, redis: RedisClient, key: str, kind: type[T]) -> None:
        self._execute = Commands.of(redis).execute
        self._key = key
        self._kind = kind

    async def add(self, item: T, max_entries: int, name: str = "") -> None:
        """Add one; about so many of the newest stay."""
        encoded = msgspec.json.encode(item)
        await self._execute("XADD", self._key, "MAXLEN", "~", max_entries, "*", "id", name, "entry", encoded)

    async def newest(self, limit: int, name: str = "") -> list[T]:
        """The last ones, the newest first; only those of a name where one is given."""
        entries: Any = await self._execute("XREVRANGE", self._key, "+", "-", "COUNT", limit)
        wanted = [fields for _, fields in entries if not name or fields.get(b"id") == name.encode()]
        return list(self._decoded(wanted))

    async def since(self, last: bytes, limit: int) -> tuple[bytes, list[T]]:
        """What was added after an entry, at most so many, the newest first; and the last entry's id. An empty
        id stands for the newest there is.
        """
        start = b"(" + last if last else b"-"
        entries: Any = await self._execute("XREVRANGE", self._key, "+", start, "COUNT", limit if last else 1)
        newest: bytes = entries[0][0] if entries else last or b"0-0"
        return newest, list(self._decoded([fields for _, fields in entries])) if last else []

    def _decoded(self, entries: list[Any]) -> Iterator[T]:
        for fields in entries:
            with suppress(msgspec.DecodeError, KeyError):  # a router of another version
                yield msgspec.json.decode(fields[b"entry"], type=self._kind)
