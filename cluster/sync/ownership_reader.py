"""The read side of block ownership: brings one fleet's index up to a replica's batches.

Batches arrive in order or not at all. One that does not follow the last applied makes the reader fetch the
log from there; a log that was trimmed makes it start over: sequence number, set, then the log from that
number.
"""

import asyncio
import time
from typing import Any

import msgspec
import structlog

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Replica
from cluster.index.block_table import unpack
from cluster.protocol.wire import Batch, Keys
from cluster.store.commands import RedisClient

SCAN_COUNT = 2_000
SNAPSHOT_ATTEMPTS = 5
KEYS_AT_ONCE = 5_000
"""Keys that are applied without letting anybody else run: about a millisecond."""

log = structlog.get_logger()


class OwnershipReader:
    """Knows for every replica of a fleet which batch was applied last."""

    def __init__(self, redis: RedisClient, keys: Keys, fleet: Fleet) -> None:
        self._redis = redis
        self._keys = keys
        self._fleet = fleet
        self._sequences: dict[str, int] = {}
        self.resynchronisations = 0
        """How often a replica's blocks were read anew."""
        self.progressed_at = time.monotonic()
        """When something was last read of a replica's blocks, in monotonic seconds."""

    def sequence(self, replica_id: str) -> int:
        """Number of the last batch applied for a replica; -1 for an unknown one."""
        return self._sequences.get(replica_id, -1)

    def begin(self, replica_id: str) -> None:
        """A new epoch: nothing of it has been applied."""
        self._sequences[replica_id] = 0

    def start_over(self, replica_id: str) -> None:
        """Nothing of a replica has been applied any more. An unknown one is ignored."""
        if replica := self._fleet.replicas.get(replica_id):
            self._fleet.apply(replica, (), (), cleared=True)
            self.begin(replica_id)

    def forget(self, replica_id: str) -> None:
        """The replica is gone."""
        self._sequences.pop(replica_id, None)

    def apply(self, replica: Replica, batch: Batch) -> bool:
        """Apply a batch if it is the next one. False when one before it is missing."""
        last = self._sequences[batch.replica]
        if batch.sequence > last + 1:
            return False
        if batch.sequence == last + 1:
            self._fleet.apply(replica, unpack(batch.stored), unpack(batch.removed), batch.cleared)
            self._sequences[batch.replica] = batch.sequence
        return True

    async def catch_up(self, replica: Replica) -> None:
        """Apply everything in the replica's log that is not applied yet, or read its blocks anew."""
        if not await self._replay_log(replica):
            self.resynchronisations += 1
            for _ in range(SNAPSHOT_ATTEMPTS):
                if await self._read_snapshot(replica) and await self._replay_log(replica):
                    return
            log.warning("replica_lagged", replica=replica.lease.replica)

    async def _replay_log(self, replica: Replica) -> bool:
        """False when the log no longer reaches back to what was applied last."""
        replica_id = replica.lease.replica
        start = self._sequences[replica_id] + 1
        entries: Any = await self._redis.xrange(self._keys.log(replica_id, replica.epoch), min=f"{start}-0")
        self.progressed_at = time.monotonic()
        try:
            batches = [msgspec.msgpack.decode(fields[b"batch"], type=Batch) for _, fields in entries]
        except msgspec.DecodeError:  # an agent of another version: its set can be read all the same
            return False
        if not all(self.apply(replica, batch) for batch in batches):
            return False
        return bool(entries) or await self._sequence_in_redis(replica) < start

    async def _read_snapshot(self, replica: Replica) -> bool:
        """Read the set of owned blocks; it is as new as the sequence read before it, or newer."""
        replica_id = replica.lease.replica
        sequence = await self._sequence_in_redis(replica)
        keys = unpack(b"".join(await self._scan(self._keys.owned(replica_id, replica.epoch))))
        self._fleet.apply(replica, keys[:0], keys[:0], cleared=True)
        for start in range(0, len(keys), KEYS_AT_ONCE):
            self._fleet.apply(replica, keys[start : start + KEYS_AT_ONCE], keys[:0], cleared=False)
            await asyncio.sleep(0)
        self._sequences[replica_id] = sequence
        return sequence >= 0

    async def _scan(self, name: str) -> list[bytes]:
        members: list[Any] = []
        cursor = 0
        while True:
            cursor, page = await self._redis.sscan(name, cursor=cursor, count=SCAN_COUNT)
            self.progressed_at = time.monotonic()
            members += page
            if not cursor:
                return members

    async def _sequence_in_redis(self, replica: Replica) -> int:
        """Number of the last batch of this epoch; -1 when the epoch is over."""
        fields: Any = await self._redis.hmget(self._keys.lease(replica.lease.replica), ["epoch", "sequence"])
        return int(fields[1]) if fields[0] == str(replica.epoch).encode() else -1
