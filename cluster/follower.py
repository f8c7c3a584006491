"""Keeps a router's fleet equal to what agents have written to Redis.

One task does it all, in order: it subscribes first, reads every lease, catches up with each replica's
blocks, then applies batches as they are published. A batch that does not follow the last one makes it read
the log from there; a log that was trimmed makes it start over for that replica: sequence number, set, then
the log from that number.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import msgspec
import structlog
from redis.asyncio.client import PubSub

from cluster.block_keys import unpack_keys
from cluster.errors import StoreUnavailableError
from cluster.fleet import Fleet, Replica
from cluster.store import RedisClient, open_pubsub, translated_errors
from cluster.wire import Batch, Bookings, Keys, Lease, Load, Membership

SCAN_COUNT = 2_000
SNAPSHOT_ATTEMPTS = 5
RECONNECT_SECONDS = (0.05, 0.1, 0.2, 0.4)
SILENT_SECONDS, SILENT_POLLS = 2.0, 4
"""A router hears its own bookings twice a second. When it has not for so long, and over so many polls of
leases that were answered, its subscription is dead, though the connection may look alive. A router that
did not run for a while finds its messages waiting instead."""
MISSING_LEASE_SECONDS = 1.5
"""How long a lease may be missing before its replica is dismissed: Redis may have lost its data, and a living
agent writes its lease again with the next heartbeat."""

log = structlog.get_logger()


class Follower:
    """Feeds one fleet from Redis until cancelled; survives Redis being away.

    ``router`` is the id under which this process itself publishes bookings, "" when it does not.
    """

    def __init__(
        self, redis: RedisClient, keys: Keys, fleet: Fleet, poll_seconds: float, router: str = ""
    ) -> None:
        self._redis = redis
        self._router = router
        self._keys = keys
        self._fleet = fleet
        self._poll_seconds = poll_seconds
        self._bookings_channel = keys.bookings.encode()
        self._memberships_channel = keys.memberships.encode()
        self._last_heard = 0.0
        self._polls_unheard = 0
        self._sequences: dict[str, int] = {}
        self._missing_since: dict[str, float] = {}
        self._unreadable: set[str] = set()
        self.synchronised = asyncio.Event()
        """Set once everything that was in Redis at the start has been read."""
        self.resynchronisations = 0
        """How often a replica's blocks were read anew."""

    def sequence(self, replica_id: str) -> int:
        """Number of the last batch applied for a replica; -1 for an unknown one."""
        return self._sequences.get(replica_id, -1)

    async def run(self) -> None:
        """Follow until cancelled. Errors of Redis make it reconnect; the fleet keeps its last state
        meanwhile."""
        failures = 0
        while True:
            try:
                with translated_errors():
                    async with open_pubsub(self._redis) as pubsub:
                        await pubsub.subscribe(
                            self._keys.batches, self._keys.memberships, self._keys.bookings
                        )
                        self._missing_since.clear()
                        await self._read_bookings()
                        await self._read_leases()
                        failures = 0
                        self._set_reachable(True)
                        self.synchronised.set()
                        await self._follow(pubsub)
            except StoreUnavailableError as error:
                self._set_reachable(False, str(error))
                await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
                failures += 1

    async def _follow(self, pubsub: PubSub) -> None:
        self._last_heard, self._polls_unheard = time.monotonic(), 0
        next_poll = time.monotonic() + self._poll_seconds
        while True:
            wait = next_poll - time.monotonic()
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=max(wait, 0.001))
            if message is not None:
                try:
                    await self._handle(message["channel"], message["data"])
                except msgspec.DecodeError as error:
                    log.warning("message_unreadable", reason=str(error))
            if time.monotonic() >= next_poll:
                await self._read_leases()
                next_poll = time.monotonic() + self._poll_seconds
                self._polls_unheard += 1
                self._check_subscription()

    async def _handle(self, channel: bytes, data: bytes) -> None:
        if channel == self._bookings_channel:
            self._hear(data)
            return
        if channel == self._memberships_channel:
            membership = msgspec.msgpack.decode(data, type=Membership)
            await self._read_lease(membership.replica, membership.left)
            return
        batch = msgspec.msgpack.decode(data, type=Batch)
        replica = self._fleet.replicas.get(batch.replica)
        if replica is None or replica.epoch < batch.epoch:
            await self._read_lease(batch.replica)
        elif replica.epoch == batch.epoch and not self._apply(replica, batch):
            await self._catch_up(replica)

    def _check_subscription(self) -> None:
        silence = time.monotonic() - self._last_heard
        if self._router and silence > SILENT_SECONDS and self._polls_unheard > SILENT_POLLS:
            raise StoreUnavailableError("Redis: no messages arrive any more")

    def _hear(self, data: bytes) -> None:
        self._last_heard, self._polls_unheard = time.monotonic(), 0
        bookings = msgspec.msgpack.decode(data, type=Bookings)
        if bookings.router != self._router:
            self._fleet.peers.hear(bookings, time.monotonic())

    async def _read_bookings(self) -> None:
        """What the other routers have said last; those that say nothing any more are struck off."""
        routers = sorted(
            name.decode() for name in cast(set[bytes], await self._redis.smembers(self._keys.routers))
        )
        pipeline = self._redis.pipeline(transaction=False)
        for router in routers:
            pipeline.get(self._keys.inflight(router))
        for router, data in zip(routers, await pipeline.execute() if routers else (), strict=True):
            if data is None:
                await self._redis.srem(self._keys.routers, router)
            else:
                with suppress(msgspec.DecodeError):  # a router of another version
                    self._hear(data)

    async def _read_leases(self) -> None:
        members: Any = await self._redis.zrange(self._keys.members, 0, -1)
        replica_ids = sorted({member.decode() for member in members} | set(self._fleet.replicas))
        for replica_id, (fields, load) in zip(replica_ids, await self._fetch(replica_ids), strict=True):
            if fields[0] is not None:
                await self._take_in(replica_id, fields, load)
            elif self._has_been_missing(replica_id):
                self._dismiss(replica_id)
                await self._redis.zrem(self._keys.members, replica_id)

    async def _read_lease(self, replica_id: str, left: bool = False) -> None:
        """Read one lease that has just changed."""
        [(fields, load)] = await self._fetch([replica_id])
        if fields[0] is not None:
            await self._take_in(replica_id, fields, load)
        elif left:
            self._dismiss(replica_id)

    def _has_been_missing(self, replica_id: str) -> bool:
        now = time.monotonic()
        return now - self._missing_since.setdefault(replica_id, now) >= MISSING_LEASE_SECONDS

    def _dismiss(self, replica_id: str) -> None:
        self._missing_since.pop(replica_id, None)
        if replica_id in self._fleet.replicas:
            self._fleet.dismiss(replica_id)
            del self._sequences[replica_id]
            log.info("replica_gone", replica=replica_id)

    async def _fetch(self, replica_ids: Sequence[str]) -> list[tuple[list[bytes], bytes | None]]:
        pipeline = self._redis.pipeline(transaction=False)
        for replica_id in replica_ids:
            pipeline.hmget(self._keys.lease(replica_id), ["epoch", "sequence", "lease"])
            pipeline.get(self._keys.load(replica_id))
        answers: list[Any] = await pipeline.execute()
        return list(zip(answers[::2], answers[1::2], strict=True))

    async def _take_in(self, replica_id: str, fields: list[bytes], load: bytes | None) -> None:
        self._missing_since.pop(replica_id, None)
        epoch, sequence, encoded = fields
        known = self._fleet.replicas.get(replica_id)
        new_epoch = known is None or known.epoch != int(epoch)
        try:
            lease = msgspec.json.decode(encoded, type=Lease)
            gauges = msgspec.msgpack.decode(load, type=Load) if load else Load()
        except msgspec.DecodeError as error:  # an agent of another version: leave its replica as it is
            if replica_id not in self._unreadable:
                self._unreadable.add(replica_id)
                log.error("lease_unreadable", replica=replica_id, reason=str(error))
            return
        self._unreadable.discard(replica_id)
        replica = self._fleet.admit(lease, int(epoch), gauges)
        if new_epoch:
            self._sequences[replica_id] = 0
            log.info("replica_epoch", replica=replica_id, epoch=replica.epoch, state=replica.lease.state)
        if self._sequences[replica_id] < int(sequence):
            await self._catch_up(replica)

    async def _catch_up(self, replica: Replica) -> None:
        """Apply everything in the replica's log that is not applied yet, or read its blocks anew."""
        if not await self._replay_log(replica):
            self.resynchronisations += 1
            for _ in range(SNAPSHOT_ATTEMPTS):
                if await self._read_snapshot(replica) and await self._replay_log(replica):
                    return
            log.warning("replica_not_caught_up", replica=replica.lease.replica)

    async def _replay_log(self, replica: Replica) -> bool:
        """False when the log no longer reaches back to what was applied last."""
        replica_id = replica.lease.replica
        start = self._sequences[replica_id] + 1
        entries: Any = await self._redis.xrange(self._keys.log(replica_id, replica.epoch), min=f"{start}-0")
        try:
            batches = [msgspec.msgpack.decode(fields[b"batch"], type=Batch) for _, fields in entries]
        except msgspec.DecodeError:  # an agent of another version: its set can be read all the same
            return False
        if not all(self._apply(replica, batch) for batch in batches):
            return False
        return bool(entries) or await self._sequence_in_redis(replica) < start

    async def _read_snapshot(self, replica: Replica) -> bool:
        """Read the set of owned blocks; it is as new as the sequence read before it, or newer."""
        replica_id = replica.lease.replica
        sequence = await self._sequence_in_redis(replica)
        owned = [
            member
            async for member in self._redis.sscan_iter(
                self._keys.owned(replica_id, replica.epoch), count=SCAN_COUNT
            )
        ]
        self._fleet.apply(replica, unpack_keys(b"".join(owned)), (), cleared=True)
        self._sequences[replica_id] = sequence
        return sequence >= 0

    async def _sequence_in_redis(self, replica: Replica) -> int:
        """Number of the last batch of this epoch; -1 when the epoch is over."""
        fields: Any = await self._redis.hmget(self._keys.lease(replica.lease.replica), ["epoch", "sequence"])
        return int(fields[1]) if fields[0] == str(replica.epoch).encode() else -1

    def _apply(self, replica: Replica, batch: Batch) -> bool:
        """Apply a batch if it is the next one. False when one before it is missing."""
        last = self._sequences[batch.replica]
        if batch.sequence > last + 1:
            return False
        if batch.sequence == last + 1:
            self._fleet.apply(replica, unpack_keys(batch.stored), unpack_keys(batch.removed), batch.cleared)
            self._sequences[batch.replica] = batch.sequence
        return True

    def _set_reachable(self, reachable: bool, reason: str = "") -> None:
        if reachable != self._fleet.store_reachable:
            log.warning("redis_reachable" if reachable else "redis_unreachable", reason=reason)
        self._fleet.store_reachable = reachable
