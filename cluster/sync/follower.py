"""Keeps a router's fleet equal to what agents have written to Redis, and to what other routers have booked.

A lease that is missing without a farewell is no dead replica: Redis may have lost it, or refuse to renew
it. So its engine is asked, by whoever can (``engine_lives``), and while it answers the replica stays, with
what is known of its blocks.

One task does it all, in order: it subscribes first, reads every lease, catches up with each replica's
blocks, then takes what is published. Besides, every lease is read twice a second, a few at a time so that
messages need not wait: it brings the gauges, and its sequence number shows a message that was lost.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import msgspec
import structlog
from redis.asyncio.client import PubSub

from cluster.errors import StoreRefusesError, StoreUnavailableError
from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Replica
from cluster.protocol.wire import Batch, Bookings, Keys, Lease, Load, Membership
from cluster.store.commands import RedisClient, translated_errors
from cluster.store.store import open_pubsub
from cluster.sync.ownership_reader import OwnershipReader

LEASES_PER_POLL = 16
"""Leases read at once: about 3 ms in which messages wait."""
RECONNECT_SECONDS = (0.05, 0.1, 0.2, 0.4)
SILENT_SECONDS, SILENT_ROUNDS = 2.0, 4
"""A router receives its own bookings twice a second. When it has not for so long, and over so many rounds of
reading leases, its subscription is dead, though the connection may look alive. A router that
did not run for a while finds its messages waiting instead."""
MISSING_LEASE_SECONDS = 1.5
"""How long a lease may be missing before its replica is dismissed, if its engine does not answer: Redis may
have lost its data, and a living agent writes its lease again with the next heartbeat."""

TLS_PROBLEM = re.compile(r"\[SSL.*")

log = structlog.get_logger()


EngineLives = Callable[[Replica], bool | None]
"""Whether a replica's engine answers, without waiting: None while that is not known. To be called again and
again; the first call has it asked."""


def nobody_asks(_replica: Replica) -> bool:
    """For those who cannot ask engines: leases alone decide."""
    return False


class Follower:
    """Feeds one fleet from Redis until cancelled; survives Redis being away.

    ``router`` is the id under which this process itself publishes bookings, "" when it does not.
    """

    def __init__(
        self,
        redis: RedisClient,
        keys: Keys,
        fleet: Fleet,
        poll_seconds: float,
        router: str = "",
        engine_lives: EngineLives = nobody_asks,
    ) -> None:
        self._redis = redis
        self._router = router
        self._keys = keys
        self._fleet = fleet
        self._poll_seconds = poll_seconds
        self._engine_lives = engine_lives
        self._progressed_at = time.monotonic()
        self._bookings_channel = keys.bookings.encode()
        self._memberships_channel = keys.memberships.encode()
        self._last_received = 0.0
        self._rounds_silent = 0
        self._blocks = OwnershipReader(redis, keys, fleet)
        self._sequences_read: dict[str, tuple[int, int]] = {}
        """Epoch and sequence number of each replica when its lease was last read."""
        self._unread: list[str] = []
        """Replicas whose leases are still to be read in this round."""
        self._pause = poll_seconds
        self._missing_since: dict[str, float] = {}
        self._unreadable: set[str] = set()
        self._to_read_anew: set[str] = set()
        self.synchronised = asyncio.Event()
        """Set once everything that was in Redis at the start has been read."""

    @property
    def resynchronisations(self) -> int:
        """How often a replica's blocks were read anew."""
        return self._blocks.resynchronisations

    @property
    def progressed_at(self) -> float:
        """When it last got on with its work, in monotonic seconds. Being refused or not answered counts."""
        return max(self._progressed_at, self._blocks.progressed_at)

    def sequence(self, replica_id: str) -> int:
        """Number of the last batch applied for a replica; -1 for an unknown one."""
        return self._blocks.sequence(replica_id)

    def read_anew(self, replica_id: str) -> None:
        """Soon forget what a replica holds, and read it again. Unknown ids are ignored."""
        self._to_read_anew.add(replica_id)

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
                        await self._read_leases(await self._known_replicas(), first=True)
                        failures = 0
                        self._set_reachable(True)
                        self.synchronised.set()
                        await self._follow(pubsub)
            except StoreUnavailableError as error:
                self._progressed_at = time.monotonic()
                self._set_reachable(False, error)
                await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
                failures += 1

    async def _follow(self, pubsub: PubSub) -> None:
        self._last_received, self._rounds_silent = time.monotonic(), 0
        next_poll = time.monotonic()
        while True:
            wait = next_poll - time.monotonic()
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=max(wait, 0.001))
            if message is not None:
                try:
                    await self._handle(message["channel"], message["data"])
                except msgspec.DecodeError as error:
                    log.warning("message_rejected", reason=str(error))
            if time.monotonic() >= next_poll:
                next_poll = time.monotonic() + await self._poll()

    async def _poll(self) -> float:
        """Read the next few leases. Returns the seconds until it is time for more."""
        self._progressed_at = time.monotonic()
        while self._to_read_anew:
            self._blocks.start_over(replica_id := self._to_read_anew.pop())
            log.info("replica_reread", replica=replica_id)
        if not self._unread:
            self._check_subscription()
            self._unread = await self._known_replicas()
            self._pause = self._poll_seconds / max(len(self._unread) / LEASES_PER_POLL, 1.0)
        part, self._unread = self._unread[:LEASES_PER_POLL], self._unread[LEASES_PER_POLL:]
        await self._read_leases(part)
        return self._pause

    async def _handle(self, channel: bytes, data: bytes) -> None:
        if channel == self._bookings_channel:
            self._receive(data)
        elif channel == self._memberships_channel:
            membership = msgspec.msgpack.decode(data, type=Membership)
            await self._read_lease(membership.replica, membership.left)
        else:
            await self._take_batch(msgspec.msgpack.decode(data, type=Batch))

    async def _take_batch(self, batch: Batch) -> None:
        replica = self._fleet.replicas.get(batch.replica)
        if replica is None or replica.epoch < batch.epoch:
            await self._read_lease(batch.replica)
            replica = self._fleet.replicas.get(batch.replica)
        if replica and replica.epoch == batch.epoch and not self._blocks.apply(replica, batch):
            await self._blocks.catch_up(replica)

    def _check_subscription(self) -> None:
        self._rounds_silent += 1
        silence = time.monotonic() - self._last_received
        if self._router and silence > SILENT_SECONDS and self._rounds_silent > SILENT_ROUNDS:
            raise StoreUnavailableError("Redis: no messages arrive any more")

    def _receive(self, data: bytes) -> None:
        self._last_received, self._rounds_silent = time.monotonic(), 0
        bookings = msgspec.msgpack.decode(data, type=Bookings)
        if bookings.router != self._router:
            self._fleet.receive(bookings, time.monotonic())

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
                await self._strike_off(self._redis.srem(self._keys.routers, router))
            else:
                with suppress(msgspec.DecodeError):  # a router of another version
                    self._receive(data)

    async def _known_replicas(self) -> list[str]:
        members: Any = await self._redis.zrange(self._keys.members, 0, -1)
        return sorted({member.decode() for member in members} | set(self._fleet.replicas))

    async def _read_leases(self, replica_ids: Sequence[str], first: bool = False) -> None:
        """Take in some leases. Blocks are caught up with ``first`` at once, else where messages are late."""
        for replica_id, (fields, load) in zip(replica_ids, await self._fetch(replica_ids), strict=True):
            if fields[0] is not None:
                before = self._sequences_read.get(replica_id, (0, 0))
                replica = self._apply(replica_id, fields, load)
                if replica is None:
                    continue
                now = self._sequences_read[replica_id] = (replica.epoch, int(fields[1]))
                due = before if not first and before[0] == replica.epoch else now
                if self._blocks.sequence(replica_id) < due[1]:
                    await self._blocks.catch_up(replica)
            elif await self._is_gone(replica_id):
                self._dismiss(replica_id)
                await self._strike_off(self._redis.zrem(self._keys.members, replica_id))

    async def _read_lease(self, replica_id: str, left: bool = False) -> None:
        """Read one lease that has just changed."""
        [(fields, load)] = await self._fetch([replica_id])
        if fields[0] is not None:
            self._apply(replica_id, fields, load)
        elif left:
            self._dismiss(replica_id)

    async def _is_gone(self, replica_id: str) -> bool:
        """Whether a replica without a lease is one no more."""
        now = time.monotonic()
        long = now - self._missing_since.setdefault(replica_id, now) >= MISSING_LEASE_SECONDS
        replica = self._fleet.replicas.get(replica_id)
        if replica is None:
            return long
        if replica.lease_missing_since is None:
            replica.lease_missing_since = now
        if self._is_served_by_another(replica) or await self._redis.exists(self._keys.farewell(replica_id)):
            return True
        replica.lost = self._engine_lives(replica) is False and long
        return replica.lost

    def _is_served_by_another(self, replica: Replica) -> bool:
        """Whether its engine has an agent that calls it by another id."""
        return any(
            other.lease.url == replica.lease.url and other.lease_missing_since is None
            for other in self._fleet.replicas.values()
        )

    async def _strike_off(self, removal: Awaitable[Any]) -> None:
        """Remove a name that nobody needs from a list; another router may do it when Redis refuses."""
        with suppress(StoreRefusesError), translated_errors():
            await removal

    def _dismiss(self, replica_id: str) -> None:
        self._missing_since.pop(replica_id, None)
        if replica_id in self._fleet.replicas:
            self._fleet.dismiss(replica_id)
            self._blocks.forget(replica_id)
            self._sequences_read.pop(replica_id, None)
            log.info("replica_dismissed", replica=replica_id)

    async def _fetch(self, replica_ids: Sequence[str]) -> list[tuple[list[bytes], bytes | None]]:
        pipeline = self._redis.pipeline(transaction=False)
        for replica_id in replica_ids:
            pipeline.hmget(self._keys.lease(replica_id), ["epoch", "sequence", "lease"])
            pipeline.get(self._keys.load(replica_id))
        answers: list[Any] = await pipeline.execute()
        return list(zip(answers[::2], answers[1::2], strict=True))

    def _apply(self, replica_id: str, fields: list[bytes], load: bytes | None) -> Replica | None:
        """Take in one lease; None when it cannot be read."""
        self._missing_since.pop(replica_id, None)
        epoch, _, encoded = fields
        known = self._fleet.replicas.get(replica_id)
        new_epoch = known is None or known.epoch != int(epoch)
        try:
            lease = msgspec.json.decode(encoded, type=Lease)
            gauges = msgspec.msgpack.decode(load, type=Load) if load else Load()
        except msgspec.DecodeError as error:  # an agent of another version: leave its replica as it is
            if replica_id not in self._unreadable:
                self._unreadable.add(replica_id)
                log.error("lease_rejected", replica=replica_id, reason=str(error))
            return None
        self._unreadable.discard(replica_id)
        replica = self._fleet.admit(lease, int(epoch), gauges)
        replica.lease_missing_since = None
        if new_epoch:
            self._blocks.begin(replica_id)
            log.info("replica_admitted", replica=replica_id, epoch=replica.epoch, state=replica.lease.state)
        return replica

    def _set_reachable(self, reachable: bool, error: StoreUnavailableError | None = None) -> None:
        if reachable != self._fleet.store_reachable:
            log.warning("redis_returned" if reachable else "redis_lost", reason=str(error or ""))
        self._fleet.store_reachable = reachable
        refuses = isinstance(error, StoreRefusesError)
        self._fleet.store.unreadable = str(error) if refuses else ""
        found = TLS_PROBLEM.search(str(error or ""))
        self._fleet.store.tls_problem = found[0] if found else ""
