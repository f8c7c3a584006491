"""What operators have decided for all routers of a deployment: a policy, an experiment, and what comes of it.

One hash in Redis holds both decisions. A decision that is taken back is emptied and not deleted: so a field
that is missing was lost by Redis, and the first router that remembers it writes it again.
"""

from contextlib import suppress
from typing import Any

import msgspec

from cluster.errors import StoreRefusesError
from cluster.protocol.wire import Keys
from cluster.store.commands import Commands, RedisClient

POLICY, EXPERIMENT = "policy", "experiment"
RESULTS_SECONDS = 24 * 3600
"""How long results stay in Redis after the last router has written some."""


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """A share of conversations is decided by another policy, for comparison."""

    name: str
    """Decides, with the conversation key, who takes part: the same name draws the same conversations."""
    control: str
    """Name of the other policy."""
    share: float
    """Part of all conversations that takes part, between 0 and 1."""
    started: float
    """Seconds since 1970, on the clock of the router that was asked for it."""


class SteeringStore:
    """The decisions in Redis. Every method raises `StoreUnavailableError` when Redis does not answer."""

    def __init__(self, redis: RedisClient, keys: Keys) -> None:
        self._execute = Commands.of(redis).execute
        self._key = f"{keys.prefix}:steering"
        self._results_key = f"{keys.prefix}:results"
        self._known: dict[str, bytes] = {}

    async def read(self) -> tuple[str, bytes]:
        """Policy and encoded experiment; empty where nothing was decided."""
        answer: list[bytes | None] = await self._execute("HMGET", self._key, POLICY, EXPERIMENT)
        for field, value in zip((POLICY, EXPERIMENT), answer, strict=True):
            if value is not None:
                self._known[field] = value
            elif field in self._known:
                with suppress(StoreRefusesError):  # what is known holds without it
                    await self._execute("HSETNX", self._key, field, self._known[field])
        return self._known.get(POLICY, b"").decode(errors="replace"), self._known.get(EXPERIMENT, b"")

    async def decide_policy(self, name: str) -> None:
        """Let all routers use this policy; "" lets each use the one of its settings."""
        await self._execute("HSET", self._key, POLICY, name)

    async def decide_experiment(self, experiment: Experiment | None) -> None:
        """Let all routers run this experiment, or none."""
        encoded = b"" if experiment is None else msgspec.json.encode(experiment)
        await self._execute("HSET", self._key, EXPERIMENT, encoded)

    async def publish_results(self, trial: str, router: str, results: bytes) -> None:
        """Write what one router has counted in one trial, over what it wrote before."""
        key = self._results(trial)
        await self._execute("HSET", key, router, results)
        await self._execute("EXPIRE", key, RESULTS_SECONDS)

    async def results(self, trial: str) -> dict[str, bytes]:
        """What each router has counted in one trial, also those that have ended since."""
        answer: Any = await self._execute("HGETALL", self._results(trial))
        return {router.decode(): results for router, results in answer.items()}

    def _results(self, trial: str) -> str:
        return f"{self._results_key}:{{{trial}}}"
