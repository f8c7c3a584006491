"""Who has changed what: the last changes of all routers in Redis, and one log line each."""

import time

import msgspec
import structlog

from cluster.errors import StoreUnavailableError
from cluster.protocol.wire import Keys
from cluster.store.commands import RedisClient
from router.observe.shared_log import SharedLog

MAX_ENTRIES = 1_000
MAX_TEXT = 256
"""A target or a detail is cut off after so many characters."""

log = structlog.get_logger()


class AuditEntry(msgspec.Struct, kw_only=True):
    """One change that an operator has made."""

    time: float
    action: str
    target: str
    detail: str
    by: str
    router: str


class AuditLog:
    """The log of a deployment, as one router writes and reads it."""

    def __init__(self, redis: RedisClient, keys: Keys, router: str) -> None:
        self._log = SharedLog(redis, f"{keys.prefix}:audit", AuditEntry)
        self._router = router

    async def write(self, by: str, action: str, target: str, detail: str = "") -> None:
        """Note a change that has been made. If Redis has gone since, only this router's log has it."""
        target, detail = target[:MAX_TEXT], detail[:MAX_TEXT]
        entry = AuditEntry(
            time=round(time.time(), 3),
            action=action,
            target=target,
            detail=detail,
            by=by,
            router=self._router,
        )
        log.warning("admin_action_taken", action=action, target=target, detail=detail, by=by)
        try:
            await self._log.add(entry, MAX_ENTRIES)
        except StoreUnavailableError as error:
            log.error("admin_action_not_shared", action=action, target=target, reason=str(error))

    async def entries(self, limit: int) -> list[AuditEntry]:
        """The last changes, the newest first. Raises `StoreUnavailableError`."""
        return await self._log.newest(limit)

    async def since(self, last: bytes, limit: int) -> tuple[bytes, list[AuditEntry]]:
        """Changes noted after an entry, as `SharedLog.since` gives them."""
        return await self._log.since(last, limit)
