"""What a router believes is compared with Redis, and mended, whatever went wrong."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from cluster.fleet.fleet import Fleet
from cluster.process.tasks import Kept, cancel_and_wait
from cluster.protocol.wire import Lease, ReplicaState
from cluster.store.ownership import OwnershipWriter
from cluster.store.store import connect
from cluster.sync import index_watchdog
from cluster.sync.follower import Follower
from cluster.sync.index_watchdog import IndexWatchdog

pytestmark = pytest.mark.integration


class Watched:
    """A follower, its fleet, and what watches over them."""

    def __init__(self, client, keys):
        self.fleet = Fleet()
        self.follower = Follower(client, keys, self.fleet, 0.05)
        self.kept = Kept(self.follower.run)
        self.num_reset = 0
        self.watchdog = IndexWatchdog(
            client, keys, self.fleet, self.follower, self.kept.restart, lambda: self.num_reset
        )

    @property
    def slot(self):
        return self.fleet.replicas["a"].slot

    def held(self):
        """What the router believes."""
        return set(self.fleet.index.owned(self.slot))


@asynccontextmanager
async def running(url, keys):
    """All of it, with the follower kept running, until the context ends."""
    client = connect(url)
    watched = Watched(client, keys)
    tasks = [asyncio.create_task(part.run()) for part in (watched.kept, watched.watchdog)]
    try:
        await watched.follower.synchronised.wait()
        yield watched
    finally:
        await cancel_and_wait(*tasks)
        await client.aclose()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Everything sooner."""
    monkeypatch.setattr(index_watchdog, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(index_watchdog, "SETTLE_SECONDS", 0.1)


@pytest.fixture
async def writer(redis, keys):
    """A replica with some blocks."""
    lease = Lease(
        replica="a", url="http://a", state=ReplicaState.READY, model="m", block_size=16, publishes_events=True
    )
    writer = OwnershipWriter(redis, keys, "a", 30.0, 1000)
    await writer.open(lease, range(100))
    return writer


def lose(watched):
    """The index has lost a block."""
    watched.fleet.index.remove(watched.slot, [5])


def invent(watched):
    """The index believes in a block too many."""
    watched.fleet.index.store(watched.slot, [1000])


def fall_behind(watched):
    """A batch was applied that is not counted, or the other way round."""
    watched.follower._blocks._sequences["a"] += 7


@pytest.mark.parametrize("spoil", [lose, invent, fall_behind])
async def test_difference_is_mended_and_counted(writer, keys, shared_redis, eventually, spoil):
    """Whatever made it: after two looks the replica is read anew."""
    async with running(shared_redis.url, keys) as watched:
        await eventually(lambda: len(watched.held()) == 100)
        spoil(watched)
        await eventually(lambda: watched.fleet.num_repairs == 1)
        await eventually(
            lambda: watched.follower.sequence("a") == writer.sequence and watched.held() == set(range(100))
        )
        await asyncio.sleep(0.4)
        assert watched.fleet.num_repairs == 1


async def test_busy_replica_is_left_alone(writer, keys, shared_redis, eventually):
    """What is only on its way is no difference."""
    async with running(shared_redis.url, keys) as watched:
        until = time.monotonic() + 1.0
        number = 1000
        while time.monotonic() < until:
            await writer.publish([number], ())
            number += 1
        await eventually(lambda: len(watched.held()) == number - 900)
        assert watched.fleet.num_repairs == 0


async def test_busy_replica_that_differs_is_mended(writer, keys, shared_redis, eventually):
    """It need not stand still for that."""
    async with running(shared_redis.url, keys) as watched:
        await eventually(lambda: len(watched.held()) == 100)
        lose(watched)
        number = 1000
        while not watched.fleet.num_repairs:
            await writer.publish([number], ())
            await asyncio.sleep(0.005)
            number += 1
            assert number < 3000
        await eventually(lambda: watched.held() == {*range(100), *range(1000, number)})


@pytest.mark.parametrize("reason", ["reset", "full"])
async def test_blocks_that_are_missing_on_purpose_are_no_difference(
    writer, keys, shared_redis, eventually, reason
):
    """Operators have had them forgotten, or the index had no room."""
    async with running(shared_redis.url, keys) as watched:
        await eventually(lambda: len(watched.held()) == 100)
        if reason == "reset":
            watched.num_reset = 1
            lose(watched)
        else:
            watched.fleet.index._max_blocks = 100
            await writer.publish([1000], ())
            await eventually(lambda: watched.fleet.index.refused_blocks)
        await asyncio.sleep(0.5)
        assert watched.fleet.num_repairs == 0


async def test_follower_that_hangs_is_started_again(writer, keys, shared_redis, eventually, monkeypatch):
    """However it came to hang: Redis answers, so it should get on."""
    monkeypatch.setattr(index_watchdog, "STUCK_SECONDS", 0.3)
    hung = asyncio.Event()

    async def hang(*_):
        hung.set()
        await asyncio.Event().wait()

    async with running(shared_redis.url, keys) as watched:
        await eventually(lambda: len(watched.held()) == 100)
        with monkeypatch.context() as patched:
            patched.setattr(watched.follower, "_poll", hang)
            await hung.wait()
        await writer.publish([1000], ())
        await eventually(lambda: 1000 in watched.held())
