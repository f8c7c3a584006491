"""The write side of block ownership: one agent's lease, epoch and batches in Redis.

Only a replica's own agent writes its keys. Each write is one Lua call that Redis refuses when a newer
incarnation exists, ignores when it has been applied before, and reports when a batch before it is missing.
"""

from collections.abc import Collection, Iterable

import msgspec
from redis.asyncio import Redis

from cluster.block_keys import pack_keys
from cluster.errors import FencedError, LeaseLostError, SequenceGapError
from cluster.store import script, translated_errors
from cluster.wire import Batch, Keys, Lease, Load, Membership

REPUBLISH_CHUNK = 5_000
"""Blocks per batch when a whole mirror is published: one Lua call of about 5 ms."""


class OwnershipWriter:
    """Publishes what one replica owns. Call `open` first; every method may raise `StoreUnavailableError`."""

    def __init__(self, redis: Redis, keys: Keys, replica: str, lease_ttl: float, log_length: int) -> None:
        self._redis = redis
        self._keys = keys
        self._replica = replica
        self._lease_ttl_ms = round(lease_ttl * 1000)
        self._log_length = log_length
        self._open = redis.register_script(script("open"))
        self._publish = redis.register_script(script("publish"))
        self._heartbeat = redis.register_script(script("heartbeat"))
        self._close = redis.register_script(script("close"))
        self.epoch = 0
        self.sequence = 0

    async def open(self, lease: Lease, owned: Collection[int]) -> None:
        """Begin a new epoch and publish all the blocks this incarnation holds now."""
        prefixes = [self._keys.owned(self._replica, 0)[:-1], self._keys.log(self._replica, 0)[:-1]]
        with translated_errors():
            epoch = await self._open(
                keys=[self._keys.lease(self._replica)],
                args=[msgspec.json.encode(lease), self._lease_ttl_ms, *prefixes],
            )
        self.epoch, self.sequence = int(epoch), 0
        await self._announce()
        remaining = list(owned)
        for start in range(0, len(remaining), REPUBLISH_CHUNK):
            await self.publish(remaining[start : start + REPUBLISH_CHUNK], ())

    async def publish(self, stored: Iterable[int], removed: Iterable[int], cleared: bool = False) -> None:
        """Publish one change. Raises `FencedError`, `LeaseLostError` or `SequenceGapError`.

        After an error it is unknown whether Redis has the batch: call `repeat`, or `open` a new epoch.
        """
        self.sequence += 1
        self._last = Batch(
            self._replica, self.epoch, self.sequence, pack_keys(stored), pack_keys(removed), cleared
        )
        await self.repeat()

    async def repeat(self) -> None:
        """Publish the last batch once more; Redis ignores it when it already has it."""
        batch = self._last
        with translated_errors():
            answer = await self._publish(
                keys=self._names()[:3],
                args=[
                    batch.epoch,
                    batch.sequence,
                    self._lease_ttl_ms,
                    self._log_length,
                    self._keys.batches,
                    msgspec.msgpack.encode(batch),
                    int(batch.cleared),
                    batch.stored,
                    batch.removed,
                ],
            )
        self._check(answer)

    async def heartbeat(self, lease: Lease, load: Load, changed: bool = False) -> None:
        """Renew the lease. ``changed`` tells routers at once that it says something new."""
        with translated_errors():
            answer = await self._heartbeat(
                keys=self._names(),
                args=[
                    self.epoch,
                    self._lease_ttl_ms,
                    msgspec.json.encode(lease),
                    msgspec.msgpack.encode(load),
                ],
            )
        self._check(answer)
        await self._announce(changed)

    async def close(self) -> None:
        """End this incarnation: nothing of it stays in Redis."""
        with translated_errors():
            answer = await self._close(keys=self._names(), args=[self.epoch])
            if answer == b"ok":
                await self._redis.zrem(self._keys.members, self._replica)
                await self._redis.publish(
                    self._keys.memberships, msgspec.msgpack.encode(Membership(self._replica))
                )

    async def _announce(self, changed: bool = True) -> None:
        with translated_errors():
            seconds, microseconds = await self._redis.time()
            await self._redis.zadd(self._keys.members, {self._replica: seconds * 1000 + microseconds // 1000})
            if changed:
                await self._redis.publish(
                    self._keys.memberships, msgspec.msgpack.encode(Membership(self._replica))
                )

    def _names(self) -> list[str]:
        replica, epoch = self._replica, self.epoch
        return [
            self._keys.lease(replica),
            self._keys.owned(replica, epoch),
            self._keys.log(replica, epoch),
            self._keys.load(replica),
        ]

    def _check(self, answer: bytes) -> None:
        if answer == b"fenced":
            raise FencedError(f"replica {self._replica}: epoch {self.epoch} is over")
        if answer == b"lost":
            raise LeaseLostError(f"replica {self._replica}: Redis holds no lease")
        if answer == b"gap":
            raise SequenceGapError(f"replica {self._replica}: batch {self.sequence} came too early")
