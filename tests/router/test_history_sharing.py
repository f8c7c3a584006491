"""Routers see each other's past, through Redis."""

import fakeredis
import pytest

from cluster.errors import StoreUnavailableError
from router.history import history_store
from router.history.history_store import PAGE
from tests.router.finished_requests import NOON, Clock
from tests.router.history_party import Party


@pytest.fixture
def clock():
    """The time of all routers."""
    return Clock()


@pytest.fixture
def server():
    """A Redis in this process; `connected` is whether it answers."""
    return fakeredis.FakeServer(version=(7,))


@pytest.fixture
def start(server, clock):
    """Makes one more router of the deployment."""
    return lambda router_id: Party(fakeredis.FakeAsyncRedis(server=server), router_id, clock)


async def test_routers_see_each_other(start, clock):
    """A finished bucket is soon in every router's sums, percentiles and trends; its own not twice."""
    one, other = start("one"), start("other")
    one.serve(3)
    other.serve(2, replica="b", model="n")
    clock.now += 11
    for party in (one, other, one, other):
        assert party.requests
        await party.sharing.step()
    clock.now += 5
    for party in (one, other):
        assert party.requests == 5
        assert party.history.rates("b", 300).requests == 2
        assert party.history.ttft(None).warm.count == 5
        assert party.history.ttft("n").warm.count == 2
        number = int(NOON // 10)
        read = party.history.trends.read(party.store, 10, range(number, number + 1))
        assert {labels[2] async for _, sums in read for labels in sums} == {"a", "b"}
        assert party.history.per_second(60)[0] == pytest.approx(5 / 60, rel=0.15)


async def test_bucket_that_is_not_over_stays_at_home(start, clock):
    """It counts at its own router only, and is published when it is over."""
    one, other = start("one"), start("other")
    one.serve()
    await one.sharing.step()
    await other.sharing.step()
    assert (one.requests, other.requests) == (1, 0)
    clock.now += 10
    await one.sharing.step()
    await other.sharing.step()
    assert (one.requests, other.requests) == (1, 1)


async def test_router_that_starts_learns_the_last_hour(start, clock):
    """More than one page of it, of routers that have ended too: those publish at the end what they had."""
    gone = start("gone")
    for _ in range(PAGE + 5):
        gone.serve()
        clock.now += 10
        await gone.sharing.step()
    gone.serve()
    await gone.sharing.close()
    late = start("late")
    await late.sharing.step()
    assert late.requests == PAGE + 6
    assert late.history.fleet_rates(60).requests == 6
    [rows] = await late.savings.report(1, clock.now)
    assert [(row.replica, row.requests) for row in rows] == [("a", PAGE + 6)]


async def test_write_that_is_repeated_counts_once(start, clock):
    """A bucket whose arrival nobody confirmed is published again."""
    one, other = start("one"), start("other")
    one.serve()
    clock.now += 10
    append = one.store.append

    async def unconfirmed(bucket):
        await append(bucket)
        raise StoreUnavailableError("timeout")

    one.store.append = unconfirmed
    with pytest.raises(StoreUnavailableError):
        await one.sharing.step()
    one.store.append = append
    one.serve()
    clock.now += 10
    await one.sharing.step()
    assert await one.redis.xlen("test:history") == 3
    await other.sharing.step()
    assert other.requests == 2


async def test_without_redis_buckets_wait(start, clock, server):
    """The router shows its own numbers, and publishes them when Redis is back, each in its own time."""
    one, other = start("one"), start("other")
    server.connected = False
    for _ in range(40):
        one.serve()
        clock.now += 10
        with pytest.raises(StoreUnavailableError):
            await one.sharing.step()
    assert one.requests == 40
    server.connected = True
    await one.sharing.step()
    await other.sharing.step()
    assert (other.requests, other.history.fleet_rates(300).requests) == (40, 29)


async def test_what_cannot_be_read_is_passed_over(start, clock):
    """An entry of another version hides no other entry."""
    one, other = start("one"), start("other")
    await one.redis.xadd("test:history", {"router": "x", "bucket": b"\xff"})
    await one.redis.xadd("test:history", {"something": "else"})
    one.serve()
    clock.now += 10
    await one.sharing.step()
    await other.sharing.step()
    assert other.requests == 1


async def test_others_are_read_rarely_while_nobody_looks(start, clock):
    """Every ten seconds, and every two for a minute after a question."""
    one = start("one")
    reads = 0
    read = one.store.read

    async def counted(after):
        nonlocal reads
        reads += 1
        return await read(after)

    one.store.read = counted
    for _ in range(30):
        await one.sharing.step()
        clock.now += 2
    assert reads == 6
    one.history.fleet_rates(300)
    for _ in range(30):
        await one.sharing.step()
        clock.now += 2
    assert reads == 36


async def test_savings_are_told_once_a_minute(start, clock):
    """Not with every bucket."""
    one = start("one")
    for _ in range(5):
        one.serve()
        clock.now += 10
        await one.sharing.step()
    hour = int(NOON // 3600)
    assert (await one.store.savings(hour)).pairs == {}
    clock.now += 10
    await one.sharing.step()
    assert (await one.store.savings(hour)).pairs[("a", "m")][0] == 5


async def test_stream_is_bounded(start, clock, monkeypatch):
    """By its length, and it ends when nobody writes any more."""
    monkeypatch.setattr(history_store, "MAX_ENTRIES", 10)
    one = start("one")
    for _ in range(300):
        one.serve()
        clock.now += 10
        await one.sharing.step()
    assert await one.redis.xlen("test:history") <= 110  # Redis cuts off whole nodes of 100 entries
    assert 0 < await one.redis.ttl("test:history") <= 3600
