"""Several routers on one Redis see each other's bookings, and stop seeing those of the dead."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from cluster.fleet.fleet import Fleet
from cluster.fleet.peers import SILENCE_SECONDS
from cluster.process.tasks import cancel_and_wait
from cluster.protocol.wire import Booked, Lease, Load, ReplicaState
from cluster.store.store import connect, open_pubsub
from cluster.store.store_condition import SLOW_SECONDS
from cluster.sync.follower import Follower
from cluster.sync.gossip import Gossip
from tests.chaos.proxy import PASS, Behaviour, Link, Mode

pytestmark = pytest.mark.integration

LEASE = Lease(
    replica="a", url="http://a", state=ReplicaState.READY, model="m", block_size=16, publishes_events=True
)


class Router:
    """The parts of a router that share load."""

    def __init__(self, url, keys, name, seconds):
        self.redis = connect(url, seconds)
        self.fleet = Fleet()
        self.replica = self.fleet.admit(LEASE, 1, Load())
        self.follower = Follower(self.redis, keys, self.fleet, 0.1, name)
        self.gossip = Gossip(self.redis, keys, self.fleet, name)
        self.tasks = []

    async def start(self):
        """Follow and tell."""
        self.tasks = [asyncio.create_task(part.run()) for part in (self.follower, self.gossip)]
        await self.follower.synchronised.wait()

    async def die(self):
        """Fall silent without a word, as after kill -9."""
        await cancel_and_wait(*self.tasks)
        self.tasks = []

    def seen(self):
        """What the others have booked on the replica."""
        self.fleet.forget_until(time.monotonic())
        return self.fleet.peers["a"]


@asynccontextmanager
async def routers(url, keys, *names, seconds=0.5):
    """Routers that end with the context."""
    started = [Router(url, keys, name, seconds) for name in names]
    try:
        for router in started:
            await router.start()
        yield started
    finally:
        for router in started:
            await router.die()
            await router.redis.aclose()


async def test_booking_is_seen_by_the_others_until_it_ends(redis, keys, shared_redis, eventually):
    """Booked, prefilled, ended: each step arrives at every other router, and never at its own router."""
    async with routers(shared_redis.url, keys, "x", "y", "z") as (x, y, z):
        booking = x.fleet.book(x.replica, [1], 300)
        await eventually(lambda: y.seen() == z.seen() == Booked(1, 300, 300, 300))
        booking.prefill_done(0.0)
        await eventually(lambda: y.seen() == z.seen() == Booked(1, 0, 300))
        assert x.seen() == Booked()
        booking.release(0.0, succeeded=True)
        await eventually(lambda: y.seen() == z.seen() == Booked())


async def test_snapshot_counts_the_load_of_all_routers(redis, keys, shared_redis, eventually):
    """A decision sees queue and batch as if one router had booked everything."""
    async with routers(shared_redis.url, keys, "x", "y") as (x, y):
        x.fleet.book(x.replica, [1], 300)
        y.fleet.book(y.replica, [2], 50)
        await eventually(lambda: y.seen() == Booked(1, 300, 300, 300))
        snapshot = y.fleet.snapshot(y.fleet.models["m"], [], 10, time.monotonic())
        assert snapshot.queued_tokens.tolist() == [350]
        assert snapshot.running.tolist() == [2]
        assert snapshot.active_tokens.tolist() == [350]


async def test_blocks_being_computed_are_known_to_the_others(redis, keys, shared_redis, eventually):
    """A prompt that another router has just sent counts like one's own, until it has been computed."""
    async with routers(shared_redis.url, keys, "x", "y") as (x, y):
        booking = x.fleet.book(x.replica, [1, 2, 3], 300)
        await eventually(lambda: y.seen() == Booked(1, 300, 300, 300))
        cached = y.fleet.snapshot(y.fleet.models["m"], [1, 2, 9], 100, time.monotonic()).cached_tokens
        assert cached.tolist() == [32]
        booking.prefill_done(0.0)
        await eventually(lambda: y.seen() == Booked(1, 0, 300) and not any(y.fleet.index.matched_blocks([1])))


async def test_blocks_that_a_replica_holds_are_not_told(redis, keys, shared_redis, eventually):
    """Everybody knows those from its events; only what is new travels."""
    async with routers(shared_redis.url, keys, "x", "y") as (x, y):
        x.fleet.book(x.replica, [1, 2, 3], 300, cached_tokens=32)
        await eventually(lambda: y.seen() == Booked(1, 268, 300, 268))
        assert y.fleet.index.expected(y.replica.slot) == {3}


async def test_dead_router_is_forgotten_within_two_seconds(redis, keys, shared_redis, eventually):
    """Nobody takes its bookings back; they stop counting by themselves, but not before the silence."""
    async with routers(shared_redis.url, keys, "x", "y") as (x, y):
        x.fleet.book(x.replica, [1], 300)
        await eventually(lambda: y.seen() == Booked(1, 300, 300, 300))
        await asyncio.sleep(SILENCE_SECONDS)  # a living router is not forgotten
        assert y.seen() == Booked(1, 300, 300, 300)
        await x.die()
        died = time.monotonic()
        await eventually(lambda: y.seen() == Booked(), 2.0)
        assert time.monotonic() - died > SILENCE_SECONDS / 2


async def test_router_that_stops_takes_its_bookings_back(redis, keys, shared_redis, eventually):
    """An orderly end is seen at once, and leaves nothing in Redis."""
    async with routers(shared_redis.url, keys, "x", "y") as (x, y):
        x.fleet.book(x.replica, [1], 300)
        await eventually(lambda: y.seen() == Booked(1, 300, 300, 300))
        await x.die()
        await x.gossip.close()
        await eventually(lambda: y.seen() == Booked(), 0.5)
        assert await redis.smembers(keys.routers) == {b"y"}
        assert await redis.get(keys.inflight("x")) is None


async def test_new_router_knows_the_load_before_its_first_decision(redis, keys, shared_redis):
    """It reads what was told last instead of waiting for the next message."""
    async with routers(shared_redis.url, keys, "x") as (x,):
        x.fleet.book(x.replica, [1], 300)
        await x.gossip._publish_all()
        y = Router(shared_redis.url, keys, "y", 0.5)
        await y.follower._read_bookings()
        assert y.seen() == Booked(1, 300, 300, 300)
        await y.redis.aclose()


async def test_dead_routers_are_struck_off(redis, keys, shared_redis):
    """The set of routers does not grow with every one that ever died."""
    await redis.sadd(keys.routers, "long-dead")
    async with routers(shared_redis.url, keys, "x"):
        assert b"long-dead" not in await redis.smembers(keys.routers)


async def test_unreadable_messages_do_no_harm(redis, keys, shared_redis, eventually):
    """A router of another version, or anybody, may publish what cannot be read: it is ignored."""
    await redis.sadd(keys.routers, "other")
    await redis.set(keys.inflight("other"), b"\xc1")
    async with routers(shared_redis.url, keys, "x", "y") as (x, y):
        await redis.publish(keys.bookings, b"\xc1")
        x.fleet.book(x.replica, [1], 300)
        await eventually(lambda: y.seen() == Booked(1, 300, 300, 300))


async def test_redis_away_and_back(own_redis, keys, eventually):
    """Without Redis each router counts its own load alone; when it is back they see each other again."""
    async with routers(own_redis.url, keys, "x", "y") as (x, y):
        booking = x.fleet.book(x.replica, [1], 300)
        await eventually(lambda: y.seen() == Booked(1, 300, 300, 300))
        own_redis.stop()
        await eventually(lambda: y.seen() == Booked(), SILENCE_SECONDS + 0.5)
        assert x.fleet.booked("a") == Booked(1, 300, 300, 300)
        x.fleet.book(x.replica, [1], 7)
        own_redis.start()
        await eventually(lambda: y.seen() == Booked(2, 307, 307, 307))
        booking.release(0.0, succeeded=False)
        await eventually(lambda: y.seen() == Booked(1, 7, 7, 7))


async def test_dead_subscription_is_noticed(redis, keys, shared_redis, eventually, monkeypatch):
    """A connection that looks alive and brings nothing: the router misses its own voice, and subscribes
    anew.
    """
    subscriptions = []

    @asynccontextmanager
    async def recorded(client):
        async with open_pubsub(client) as pubsub:
            subscriptions.append(pubsub)
            yield pubsub

    monkeypatch.setattr("cluster.sync.follower.SILENT_SECONDS", 0.7)
    monkeypatch.setattr("cluster.sync.follower.open_pubsub", recorded)
    async with routers(shared_redis.url, keys, "x", "y") as (x, y):
        await subscriptions[-1].unsubscribe(keys.bookings)
        await eventually(lambda: len(subscriptions) == 3)
        x.fleet.book(x.replica, [1], 300)
        await eventually(lambda: y.seen() == Booked(1, 300, 300, 300))
        assert y.fleet.store_reachable


async def test_burst_goes_out_in_few_messages(redis, keys, shared_redis, eventually):
    """A hundred bookings in one moment are not a hundred messages."""
    async with routers(shared_redis.url, keys, "x", "y") as (x, y):
        before = (await redis.info("commandstats")).get("cmdstat_publish", {}).get("calls", 0)
        for number in range(100):
            x.fleet.book(x.replica, [number], 1)
        await eventually(lambda: y.seen() == Booked(100, 100, 100, 100))
        after = (await redis.info("commandstats"))["cmdstat_publish"]["calls"]
        assert after - before < 20


async def test_slow_redis_makes_no_router_silent(keys, shared_redis, eventually):
    """With half a second for each answer, bookings stay known without a break: nothing waits in a row."""
    async with (
        slow_link(shared_redis) as link,
        routers(link.name, keys, "x", "y", seconds=2.0) as (x, y),
    ):
        link.behave(Behaviour(Mode.DELAY, 0.25))
        x.fleet.book(x.replica, [1], 300)
        await eventually(lambda: y.seen().running == 1)
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            assert y.seen().running == 1
            await asyncio.sleep(0.02)
        assert x.fleet.store.seconds(time.monotonic()) > SLOW_SECONDS
        assert x.fleet.store_reachable
        link.behave(PASS)
        await eventually(lambda: x.fleet.store.seconds(time.monotonic()) < SLOW_SECONDS)


@asynccontextmanager
async def slow_link(server):
    """A way to Redis that can be made slow; its name is its URL."""
    link = Link("", server.port)
    link.name = f"redis://127.0.0.1:{link.port}/0"
    await link.listen()
    try:
        yield link
    finally:
        await link.close()


async def test_refused_writes_stop_no_message(keys, own_redis, eventually):
    """Redis that is full still passes on what routers tell each other, and says why it keeps nothing."""
    async with routers(own_redis.url, keys, "x", "y") as (x, y):
        own_redis.client("CONFIG", "SET", "maxmemory", "1mb")
        await eventually(lambda: "OOM" in x.fleet.store.refusal)
        for _ in range(5):
            booking = x.fleet.book(x.replica, [1], 300)
            began = time.monotonic()
            await eventually(lambda: y.seen().running == 1)
            booking.release(0.0, succeeded=True)
            await eventually(lambda: y.seen().running == 0)
            assert time.monotonic() - began < 0.4
        own_redis.client("CONFIG", "SET", "maxmemory", "0")
        await eventually(lambda: not x.fleet.store.refusal)
