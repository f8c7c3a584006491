"""Who has changed what: the last changes of all routers in Redis, and one log line each."""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from cluster.errors import StoreUnavailableError
from cluster.protocol.wire import Keys
from cluster.store.commands import Commands, RedisClient
from router.answers.general import AuditEntry

MAX_ENTRIES = 1_000
MAX_TEXT = 256
"""Characters of a target or a detail; the rest is cut off."""

log = structlog.get_logger()


class AuditLog:
    """The log of a deployment, as one router writes and reads it."""

    def __init__(self, redis: RedisClient, keys: Keys, router: str) -> None:
        self._execute = Commands.of(redis).execute
        self._key = f"{keys.prefix}:audit"
        self._router = router

    async def write(self, by: str, action: str, target: str, detail: str = "") -> None:
        """Note a change that has been made. If Redis has gone since, only this router's log says so."""
        target, detail = target[:MAX_TEXT], detail[:MAX_TEXT]
        entry: AuditEntry = {
            "time": round(time.time(), 3),
            "action": action,
            "target": target,
            "detail": detail,
            "by": by,
            "router": self._router,
        }
        log.warning("admin_action", action=action, target=target, detail=detail, by=by)
        try:
            await self._execute(
                "XADD", self._key, "MAXLEN", "~", MAX_ENTRIES, "*", "entry", msgspec.json.encode(entry)
            )
        except StoreUnavailableError as error:
            log.error("admin_action_not_shared", action=action, target=target, reason=str(error))

    async def entries(self, limit: int) -> list[AuditEntry]:
        """The last changes, the newest first. Raises `StoreUnavailableError`."""
        return list(_decoded(await self._execute("XREVRANGE", self._key, "+", "-", "COUNT", limit)))

    async def since(self, last: bytes, limit: int) -> tuple[bytes, list[AuditEntry]]:
        """Changes noted after an entry, at most so many, the newest first; and the last entry's id. An empty
        id stands for the newest there is. Raises `StoreUnavailableError`.
        """
        start = b"(" + last if last else b"-"
        entries: Any = await self._execute("XREVRANGE", self._key, "+", start, "COUNT", limit if last else 1)
        newest: bytes = entries[0][0] if entries else last or b"0-0"
        return newest, list(_decoded(entries)) if last else []


def _decoded(entries: Iterable[Any]) -> Iterator[AuditEntry]:
    for _, fields in entries:
        with suppress(msgspec.DecodeError, KeyError):  # a router of another version
            yield msgspec.json.decode(fields[b"entry"], type=AuditEntry)
