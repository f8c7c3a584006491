"""Finds out which rights the user lacks with whom this process reaches Redis, by trying all that are needed.

Each would show by itself as well, but some only late, or as something else: an agent that may not write
looks like one that is dead.
"""

import asyncio
from contextlib import suppress
from typing import Any

from cluster.errors import StoreRefusesError, StoreUnavailableError
from cluster.protocol.wire import Keys
from cluster.store.commands import RedisClient, Script
from cluster.store.store_condition import StoreCondition

CHECK_SECONDS = 1.0
KINDS = ("hash", "set", "sorted", "stream", "text")


class RightsCheck:
    """Keeps a process's knowledge of its rights. `run` does it until cancelled."""

    def __init__(self, redis: RedisClient, keys: Keys, condition: StoreCondition, process: str) -> None:
        self._try_all = Script(redis, "rights")
        self._keys = [f"{keys.prefix}:rights:{{{process}}}:{kind}" for kind in KINDS]
        self._prefix = keys.prefix
        self._condition = condition

    async def run(self) -> None:
        """Check once a second."""
        while True:
            with suppress(StoreUnavailableError):  # the follower says so
                self._condition.missing_rights = await self._missing()
            await asyncio.sleep(CHECK_SECONDS)

    async def _missing(self) -> list[str]:
        """As Redis' ACL writes them."""
        try:
            refused: list[Any] = await self._try_all(self._keys, [self._prefix])
        except StoreRefusesError as error:
            return [str(error)] if "NOPERM" in str(error) else []
        missing = dict.fromkeys(self._right(*answer.decode().split(" ", 1)) for answer in refused)
        return list(missing)

    def _right(self, command: str, reason: str) -> str:
        if "channel" in reason:
            return f"&{self._prefix}:*"
        return f"~{self._prefix}:*" if "keys" in reason else f"+{command.lower()}"
