"""Does in one router what operators want done with single replicas and blocks.

Commands stand in Redis and hold for every router of the deployment. Without Redis the last ones go on.
"""

import numpy as np

from cluster.fleet.fleet import Fleet
from cluster.store.operator_commands import CommandStore, Kind, cache_resets
from cluster.sync.follower import Follower
from router.tenants.cache_scopes import CacheScopes


class CommandFollower:
    """Applies them in one router. `router.steer.steering` calls `refresh` twice a second."""

    def __init__(self, store: CommandStore, fleet: Fleet, follower: Follower, scopes: CacheScopes) -> None:
        self._store = store
        self._fleet = fleet
        self._follower = follower
        self._resets: dict[tuple[Kind, str], float] | None = None
        """When each reset that has been applied was issued; None until the first ones have been read."""
        self._scopes = scopes

    @property
    def reset_prefixes(self) -> dict[int, float]:
        """Blocks that were reset lately, and when (seconds since 1970)."""
        resets = self._resets or {}
        return {int(target, 16): at for (kind, target), at in resets.items() if kind is Kind.RESET_PREFIX}

    async def refresh(self) -> None:
        """Read the commands and apply them. Raises `StoreUnavailableError`; nothing has changed then."""
        issued = await self._store.read(self._fleet.replicas)
        self._fleet.drain(
            {target for (kind, target), command in issued.items() if kind is Kind.DRAIN and command.on}
        )
        self._scopes.resets = cache_resets(issued)
        resets = {
            name: command.at
            for name, command in issued.items()
            if name[0] in (Kind.RESET_REPLICA, Kind.RESET_PREFIX)
        }
        done = resets if self._resets is None else self._resets  # a new router has read everything just now
        for (kind, target), at in resets.items():
            if done.get((kind, target)) != at:
                self._reset(kind, target)
        self._resets = resets

    async def drain(self, replica_id: str, drained: bool) -> None:
        """Take a replica out of service on all routers, or put it back. Raises `StoreUnavailableError`."""
        await self._store.issue(Kind.DRAIN, replica_id, drained)
        await self.refresh()

    async def reset_replica(self, replica_id: str) -> float:
        """Let all routers read anew what a replica holds. Raises `StoreUnavailableError`."""
        return await self._issue_reset(Kind.RESET_REPLICA, replica_id)

    async def reset_prefix(self, key: int) -> float:
        """Let all routers forget who holds a block. Raises `StoreUnavailableError`."""
        return await self._issue_reset(Kind.RESET_PREFIX, f"{key:016x}")

    async def reset_caches(self, target: str) -> float:
        """Let no request use what was computed before. Raises `StoreUnavailableError`."""
        return await self._issue_reset(Kind.RESET_CACHE, target)

    async def _issue_reset(self, kind: Kind, target: str) -> float:
        at = await self._store.issue(kind, target)
        await self.refresh()
        return at

    def _reset(self, kind: Kind, target: str) -> None:
        if kind is Kind.RESET_REPLICA:
            self._follower.read_anew(target)
            return
        key = np.array([int(target, 16)], dtype=np.uint64)
        for replica in self._fleet.replicas.values():
            self._fleet.index.remove(replica.slot, key)
