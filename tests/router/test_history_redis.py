"""Histories shared through a real Redis, that ends and starts again, and through a Redis Cluster."""

import pytest

from cluster.errors import StoreUnavailableError
from cluster.store.store import connect
from tests.redis_process import cluster_url, running_cluster
from tests.router.finished_requests import Clock
from tests.router.history_party import Party

pytestmark = pytest.mark.integration


@pytest.fixture
def clock():
    """The time of all routers."""
    return Clock()


@pytest.fixture
async def start(clock):
    """Makes one more router of the deployment at a URL."""
    clients = []

    def start(url, router_id):
        clients.append(connect(url))
        return Party(clients[-1], router_id, clock)

    yield start
    for client in clients:
        await client.aclose()


async def pass_time(clock, *parties):
    """Let a minute pass in which everybody is asked, publishes and reads."""
    for _ in range(7):
        clock.now += 10
        for party in parties:
            assert party.requests >= 0
            await party.sharing.step()


async def saved_requests(party, clock):
    """What a router answers for this hour."""
    [rows] = await party.savings.report(1, clock.now)
    return sum(row.requests for row in rows)


async def test_routers_answer_for_all(start, redis_server, clock):
    """Also for one that died without closing: what it had published remains, and nothing counts twice."""
    one, other, dead = (start(redis_server.url, name) for name in ("one", "other", "dead"))
    one.serve(3)
    other.serve(2, replica="b")
    dead.serve(4, replica="c")
    await pass_time(clock, one, other, dead)
    dead.serve(100)  # in a bucket that it does not live to finish
    one.serve(1)
    await pass_time(clock, one, other)
    late = start(redis_server.url, "late")
    await late.sharing.step()
    for party in (one, other, late):
        assert party.requests == 10
        assert [party.history.rates(name, 3600).requests for name in "abc"] == [4, 2, 4]
        seen = party.history.ttft(None)
        assert seen.warm.count + seen.cold.count == 10
        assert await saved_requests(party, clock) == 10


async def test_redis_restarted_empty(start, redis_server, clock):
    """A router that starts then knows nothing of before; the others keep what they knew, and write what they
    saved again."""
    one, other = start(redis_server.url, "one"), start(redis_server.url, "other")
    one.serve(3)
    other.serve(2)
    await pass_time(clock, one, other)
    redis_server.stop()
    one.serve(1)
    clock.now += 10
    with pytest.raises(StoreUnavailableError):
        await one.sharing.step()
    assert one.requests == 6
    assert await saved_requests(one, clock) == 4
    redis_server.start()
    await pass_time(clock, one, other)
    late = start(redis_server.url, "late")
    await late.sharing.step()
    assert [party.requests for party in (one, other, late)] == [6, 6, 1]
    one.serve()
    other.serve()
    await pass_time(clock, one, other)
    assert [await saved_requests(party, clock) for party in (one, other, late)] == [8, 8, 8]


async def test_redis_cluster(start, tmp_path, clock):
    """Stream and sums work where keys lie on several nodes."""
    with running_cluster(tmp_path) as nodes:
        one, other = start(cluster_url(nodes), "one"), start(cluster_url(nodes), "other")
        one.serve(3)
        await pass_time(clock, one, other)
        clock.now += 3600
        other.serve(2)
        await pass_time(clock, one, other)
        for party in (one, other):
            assert party.requests == 2
            assert [
                sum(row.requests for row in rows) for rows in await party.savings.report(2, clock.now)
            ] == [3, 2]
