"""The write side of block ownership: one agent's lease, epoch and batches in Redis.

Only a replica's own agent writes its keys. Each write is one Lua call that Redis refuses when a newer
incarnation exists, ignores when it has been applied before, and reports when a batch before it is missing.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from cluster.errors import FencedError, LeaseLostError, SequenceGapError
from cluster.protocol.block_keys import KEY_BYTES, pack_keys
from cluster.protocol.wire import Batch, Keys, Lease, Load, Membership
from cluster.store.commands import Commands, RedisClient, Script
from cluster.store.store import together

REPUBLISH_CHUNK = 5_000
"""Blocks per batch when a whole mirror is published: one Lua call of 2 to 3 ms."""

FAREWELL_SECONDS = 3600
"""How long a farewell stays in Redis for routers that did not receive it."""


class Position(NamedTuple):
    """What Redis has of an epoch."""

    sequence: int
    """Number of the last batch."""
    owned: int
    """Number of blocks in the set."""


class OwnershipWriter:
    """Publishes what one replica owns. Call `open` first; every method may raise `StoreUnavailableError`.

    Changes must be net effects: what is stored was not owned before, what is removed was. So the writer knows
    how many blocks Redis must have, and each heartbeat compares that: a failover that lost batches or a set
    that somebody deleted is noticed although nothing is published.
    """

    def __init__(
        self, redis: RedisClient, keys: Keys, replica: str, lease_ttl: float, log_length: int
    ) -> None:
        self._commands = Commands.of(redis)
        self._keys = keys
        self._replica = replica
        self._lease_ttl_ms = round(lease_ttl * 1000)
        self._log_length = log_length
        self._announcement = msgspec.msgpack.encode(Membership(replica))
        self._open = Script(redis, "open")
        self._publish = Script(redis, "publish")
        self._heartbeat = Script(redis, "heartbeat")
        self._close = Script(redis, "close")
        self._sent = self._confirmed = Position(0, 0)
        self.epoch = 0

    @property
    def sequence(self) -> int:
        """Number of the last batch of this epoch."""
        return self._sent.sequence

    @property
    def is_confirmed(self) -> bool:
        """Whether Redis has said that it has the last batch."""
        return self._sent == self._confirmed

    async def open(self, lease: Lease, owned: Collection[int]) -> None:
        """Begin a new epoch and publish all the blocks this incarnation holds now."""
        prefixes = [self._keys.owned(self._replica, 0)[:-1], self._keys.log(self._replica, 0)[:-1]]
        await self._join()
        epoch = await self._open(
            keys=[self._keys.lease(self._replica), self._keys.farewell(self._replica)],
            args=[
                msgspec.json.encode(lease),
                self._lease_ttl_ms,
                *prefixes,
                self.epoch,
                self._keys.memberships,
                self._announcement,
            ],
        )
        self.epoch = int(epoch)
        self._sent = self._confirmed = Position(0, 0)
        remaining = list(owned)
        for start in range(0, len(remaining), REPUBLISH_CHUNK):
            await self.publish(remaining[start : start + REPUBLISH_CHUNK], ())

    async def publish(self, stored: Iterable[int], removed: Iterable[int], cleared: bool = False) -> None:
        """Publish one change. Raises `FencedError`, `LeaseLostError` or `SequenceGapError`.

        After an error it is unknown whether Redis has the batch: call `repeat`, or `open` a new epoch.
        """
        self._last = Batch(
            self._replica, self.epoch, self.sequence + 1, pack_keys(stored), pack_keys(removed), cleared
        )
        before = 0 if cleared else self._sent.owned - len(self._last.removed) // KEY_BYTES
        self._sent = Position(self._last.sequence, before + len(self._last.stored) // KEY_BYTES)
        await self.repeat()

    async def repeat(self) -> None:
        """Publish the last batch once more; Redis ignores it when it already has it."""
        batch = self._last
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
        self._confirmed = self._sent

    async def heartbeat(self, lease: Lease, load: Load, changed: bool = False) -> None:
        """Renew the lease. ``changed`` tells routers at once that it says something new.

        Raises `SequenceGapError` when Redis has not all that was published, or something else.
        """
        renewal = self._heartbeat(
            keys=self._names(),
            args=[
                self.epoch,
                self._lease_ttl_ms,
                msgspec.json.encode(lease),
                msgspec.msgpack.encode(load),
                self._keys.memberships,
                self._announcement if changed else b"",
                *self._confirmed,
                *self._sent,
            ],
        )
        answer, _ = await together(renewal, self._join())
        self._check(answer)

    async def close(self) -> None:
        """End this incarnation: nothing of it stays in Redis."""
        farewell = msgspec.msgpack.encode(Membership(self._replica, left=True))
        answer = await self._close(
            keys=[*self._names(), self._keys.farewell(self._replica)],
            args=[self.epoch, self._keys.memberships, farewell, FAREWELL_SECONDS],
        )
        if answer != b"fenced":
            await self._commands.execute("ZREM", self._keys.members, self._replica)

    async def _join(self) -> None:
        """Be in the list of members. It may lie on another node of a cluster than the replica's own keys, and
        be lost without them: so with every heartbeat.
        """
        await self._commands.execute("ZADD", self._keys.members, 0, self._replica)

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
            raise SequenceGapError(f"replica {self._replica}: Redis has not all up to batch {self.sequence}")
