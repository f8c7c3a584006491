"""Publishes to the other routers what this one has booked: changes at once, everything twice a second.

While one message is on its way, further changes gather and go out with the next one: under load the number
of messages is bounded, and each carries the newest totals.

These are a router's regular writes, so they also show how Redis is: slow, or refusing to be written to.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from cluster.errors import StoreRefusesError, StoreUnavailableError
from cluster.fleet.fleet import Fleet
from cluster.fleet.peers import SILENCE_SECONDS
from cluster.protocol.wire import Bookings, Keys
from cluster.store.commands import RedisClient, translated_errors
from cluster.store.store import together

COMPLETE_SECONDS = 0.5
"""Everything is published this often, for routers that have just started or have missed something."""
PAUSE_SECONDS = 0.004
"""Shortest time between two messages of one router."""

log = structlog.get_logger()


class Gossip:
    """The messages of one router, named by an id that no other process ever has."""

    def __init__(self, redis: RedisClient, keys: Keys, fleet: Fleet, router: str) -> None:
        self._redis = redis
        self._keys = keys
        self._fleet = fleet
        self._router = router
        self._next_complete = 0.0

    async def run(self) -> None:
        """Publish until cancelled. While Redis is away nothing is sent; the newest totals go out after."""
        while True:
            try:
                await self._wait()
                if time.monotonic() >= self._next_complete:
                    await self._publish_all()
                else:
                    await self._publish_changes()
                await asyncio.sleep(PAUSE_SECONDS)
            except StoreUnavailableError:  # the follower says so
                await asyncio.sleep(COMPLETE_SECONDS)

    async def close(self) -> None:
        """Take everything back, so that no other router has to wait for the silence."""
        try:
            with translated_errors():
                await self._publish(Bookings(self._router, {}, complete=True))
                await self._redis.delete(self._keys.inflight(self._router))
                await self._redis.srem(self._keys.routers, self._router)
        except StoreUnavailableError as error:
            log.info("bookings_abandoned", reason=str(error))

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(max(self._next_complete - time.monotonic(), 0.0)):
                await self._fleet.outbox.wake.wait()
        except TimeoutError:
            return

    async def _publish_changes(self) -> None:
        replicas, news = self._fleet.outbox.take(self._router)
        totals = {replica_id: self._fleet.booked(replica_id) for replica_id in replicas}
        await self._send(self._publish(replace(news, replicas=totals)))

    async def _publish_all(self) -> None:
        self._next_complete = time.monotonic() + COMPLETE_SECONDS
        _, news = self._fleet.outbox.take(self._router)
        totals = {replica_id: self._fleet.booked(replica_id) for replica_id in self._fleet.replicas}
        totals = {replica_id: booked for replica_id, booked in totals.items() if booked.running}
        bookings = Bookings(self._router, totals, complete=True)
        encoded, milliseconds = msgspec.msgpack.encode(bookings), round(SILENCE_SECONDS * 1000)
        try:
            await self._send(
                self._publish(replace(news, replicas=totals, complete=True)),
                self._redis.set(self._keys.inflight(self._router), encoded, px=milliseconds),
                self._redis.sadd(self._keys.routers, self._router),
            )
        except StoreRefusesError as error:  # the others have received it, if only writing is refused
            self._note_refusal(str(error))
        else:
            self._note_refusal("")

    async def _send(self, *commands: Awaitable[Any]) -> None:
        """Run commands, and note how long that takes."""
        store = self._fleet.store
        store.asked(time.monotonic())
        try:
            with translated_errors():
                await together(*commands)
        except StoreRefusesError:
            store.answered(time.monotonic())
            raise
        except StoreUnavailableError:
            store.lost()
            raise
        store.answered(time.monotonic())

    def _note_refusal(self, reason: str) -> None:
        store = self._fleet.store
        if bool(reason) != bool(store.refusal):
            log.warning("redis_writes_refused" if reason else "redis_writes_accepted", reason=reason)
        store.refusal = reason

    async def _publish(self, bookings: Bookings) -> None:
        await self._redis.publish(self._keys.bookings, msgspec.msgpack.encode(bookings))
