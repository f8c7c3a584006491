"""Compares what a router believes of each replica with what Redis says, whatever else has failed.

Following is meant to be exact by itself. This is for what nobody has thought of: a replica that stands still
behind Redis, or has another number of blocks at the same position, twice in a row, is read anew; and a
follower that does not get on with its work is started again.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from cluster.errors import StoreUnavailableError
from cluster.fleet.fleet import Fleet
from cluster.protocol.wire import Keys
from cluster.store.commands import RedisClient, translated_errors
from cluster.sync.follower import Follower

CHECK_SECONDS = 1.0
CHECKED_AT_ONCE = 16
"""Replicas compared in one round trip."""
SETTLE_SECONDS = 2.0
"""Pause between two looks at one replica: what is on its way has arrived by then."""
SETTLE_ROUND_TRIPS = 10
"""It is longer by so many of Redis' round trips: a follower of a slow Redis is behind, and not wrong."""
STUCK_SECONDS = 10.0
"""A follower that has done nothing for so long, though Redis answers, is started again."""

log = structlog.get_logger()


class _View(NamedTuple):
    """Where a replica stands: epoch, number of its last batch, number of its blocks."""

    epoch: int
    sequence: int
    owned: int


class _Suspicion(NamedTuple):
    """That a replica differs."""

    since: float
    """Monotonic time in seconds."""
    believed: _View | None
    """Where it stood, if that was behind or ahead; None if only the number of blocks was wrong."""


class IndexWatchdog:
    """Watches over one follower and the index that it feeds.

    ``restart`` starts the follower again. ``num_reset`` says how many blocks operators have had forgotten.
    """

    def __init__(
        self,
        redis: RedisClient,
        keys: Keys,
        fleet: Fleet,
        follower: Follower,
        restart: Callable[[], None],
        num_reset: Callable[[], int],
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._fleet = fleet
        self._follower = follower
        self._restart = restart
        self._num_reset = num_reset
        self._suspects: dict[str, _Suspicion] = {}
        self._unchecked: list[str] = []

    async def run(self) -> None:
        """Watch until cancelled. Nothing is compared while Redis does not answer."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                with translated_errors():
                    await self.check()
            except StoreUnavailableError:
                self._suspects.clear()
                continue
            if time.monotonic() - self._follower.progressed_at > STUCK_SECONDS:
                log.critical("follower_stalled", seconds=STUCK_SECONDS)
                self._restart()

    async def check(self) -> None:
        """Compare the next few replicas, and those that differed before."""
        if not self._unchecked:
            self._unchecked = sorted(self._fleet.replicas)
        due = time.monotonic() - self._settle_seconds
        again = [name for name, suspicion in self._suspects.items() if suspicion.since <= due]
        replica_ids = list(dict.fromkeys([*again[: CHECKED_AT_ONCE // 2], *self._unchecked]))[
            :CHECKED_AT_ONCE
        ]
        self._unchecked = [name for name in self._unchecked if name not in replica_ids]
        before = {replica_id: self._believed(replica_id) for replica_id in replica_ids}
        for replica_id, found in zip(replica_ids, await self._read(before), strict=True):
            believed = before[replica_id]
            if believed is None or found is None:
                self._suspects.pop(replica_id, None)
            elif believed == self._believed(replica_id):  # else it has moved meanwhile, which says nothing
                self._compare(replica_id, believed, found)

    def _compare(self, replica_id: str, believed: _View, found: _View) -> None:
        earlier = self._suspects.pop(replica_id, None)
        if (believed.epoch, believed.sequence) != (found.epoch, found.sequence):
            suspicion = _Suspicion(time.monotonic(), believed)  # unless it gets on
        elif self._is_wrong(found.owned - believed.owned):
            suspicion = _Suspicion(time.monotonic(), None)
        else:
            return
        if earlier is None or earlier.believed != suspicion.believed:
            self._suspects[replica_id] = suspicion
        elif suspicion.since - earlier.since < self._settle_seconds:
            self._suspects[replica_id] = earlier
        else:
            log.error("index_differed", replica=replica_id, believed=believed, found=found)
            self._fleet.num_repairs += 1
            self._follower.read_anew(replica_id)

    @property
    def _settle_seconds(self) -> float:
        return SETTLE_SECONDS + SETTLE_ROUND_TRIPS * self._fleet.store.seconds(time.monotonic())

    def _is_wrong(self, num_missing: int) -> bool:
        """Whether so many blocks too few, or too many where negative, are a mistake."""
        explained = num_missing <= self._num_reset() or self._fleet.index.refused_blocks
        return num_missing < 0 or (num_missing > 0 and not explained)

    def _believed(self, replica_id: str) -> _View | None:
        replica = self._fleet.replicas.get(replica_id)
        if replica is None:
            return None
        owned = self._fleet.index.num_owned(replica.slot)
        return _View(replica.epoch, self._follower.sequence(replica_id), owned)

    async def _read(self, believed: dict[str, _View | None]) -> list[_View | None]:
        """What Redis says; None of replicas without a lease."""
        pipeline = self._redis.pipeline(transaction=False)
        for replica_id, view in believed.items():
            pipeline.hmget(self._keys.lease(replica_id), ["epoch", "sequence"])
            pipeline.scard(self._keys.owned(replica_id, view.epoch if view else 0))
        answers: list[Any] = await pipeline.execute() if believed else []
        return [
            None if epoch is None else _View(int(epoch), int(sequence), owned)
            for (epoch, sequence), owned in zip(answers[::2], answers[1::2], strict=True)
        ]
