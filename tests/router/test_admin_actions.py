"""What operators do with replicas and blocks: on all routers, audited, or refused."""

import asyncio

import pytest

from cluster.protocol.wire import Keys
from cluster.store.store import connect
from cluster.sync import follower
from router.admin.prefixes import holders_of
from router.observe.audit import MAX_ENTRIES, MAX_TEXT, AuditLog
from router.steer import steering
from tests.router.fake_engine import DONE, event, stream
from tests.router.test_admin_steering import call
from tests.router.test_requests import CHAT, STREAM, assert_error
from tests.waiting import eventually

KEY = "00000000000000ff"


@pytest.fixture
async def pair(start_router, engines, redis_server, monkeypatch):
    """Two routers of one deployment, each with both engines."""
    monkeypatch.setattr(follower, "MISSING_LEASE_SECONDS", 60)  # these engines have no agents
    monkeypatch.setattr(steering, "POLL_SECONDS", 0.02)
    routers = []
    for _ in range(2):
        router = await start_router(redis_url=redis_server.url)
        await eventually(lambda router=router: router.fleet.store_reachable)
        for name, engine in zip("ab", engines, strict=True):
            router.admit(engine.url, name)
        await router.ready()
        routers.append(router)
    return routers


async def replicas_of(router, num_requests, body=CHAT):
    """Where so many requests go."""
    seen = set()
    for _ in range(num_requests):
        async with router.post(body) as response:
            assert response.status == 200, await response.text()
            await response.read()
            seen.add(response.headers["x-warmroute-replica"])
    return seen


def drained(router):
    """Ids of drained replicas."""
    return {name for name, replica in router.fleet.replicas.items() if replica.drained}


async def test_drain_holds_for_all_routers_until_it_is_taken_back(pair):
    """Nothing new goes there, at once on the router that was asked and soon on the others."""
    one, other = pair
    assert await replicas_of(one, 4) == {"a", "b"}
    status, answer = await call(one, "PUT", "/admin/replicas/a/drain")
    assert (status, answer) == (200, {"replica": "a", "drained": True, "running": 0})
    assert await replicas_of(one, 4) == {"b"}
    await eventually(lambda: drained(other) == {"a"})
    assert await replicas_of(other, 4) == {"b"}
    assert (await other.get("/admin/replicas"))[1]["ready"] == 1
    status, answer = await call(other, "DELETE", "/admin/replicas/a/drain")
    assert (status, answer["drained"]) == (200, False)
    await eventually(lambda: not drained(one))
    assert await replicas_of(one, 4) == await replicas_of(other, 4) == {"a", "b"}


async def test_requests_that_run_finish(pair, engines):
    """A drain cuts nobody off."""
    one, _ = pair
    for engine in engines:
        engine.script.append(stream(*[event(text="x")] * 5, DONE, pause=0.1))
    running = [asyncio.ensure_future(replicas_of(one, 1, STREAM)) for _ in range(2)]
    await eventually(lambda: one.fleet.open_bookings == 2)
    _, answer = await call(one, "PUT", "/admin/replicas/a/drain")
    assert answer["running"] == 1
    assert set.union(*await asyncio.gather(*running)) == {"a", "b"}


async def test_all_drained_is_said(pair):
    """A model without a replica in service answers 503, and the router is not ready."""
    one, _ = pair
    for name in "ab":
        await call(one, "PUT", f"/admin/replicas/{name}/drain")
    async with one.post(CHAT) as response:
        assert response.status == 503
        assert_error(await response.json(), "no_replica_ready", kind="service_unavailable")
    assert (await one.get("/readyz"))[0] == 503


async def test_drain_outlives_the_replica(pair):
    """One that comes back under the same id, with a new epoch, is drained still."""
    one, _ = pair
    await call(one, "PUT", "/admin/replicas/a/drain")
    lease = one.fleet.replicas["a"].lease
    one.fleet.dismiss("a")
    assert not one.fleet.admit(lease, 7, one.fleet.replicas["b"].load).takes_requests
    one.fleet.check_integrity()


async def test_a_router_that_starts_knows_of_drains(pair, start_router, redis_server, engines):
    """Before it says that it is ready."""
    await call(pair[0], "PUT", "/admin/replicas/a/drain")
    late = await start_router(redis_url=redis_server.url)
    late.admit(engines[0].url, "a")
    late.admit(engines[1].url, "b")
    await late.ready()
    assert drained(late) == {"a"}


async def test_reset_of_a_block_is_for_all_routers(pair):
    """Nobody is believed to hold it, until it is announced again."""
    number = int(KEY, 16)
    for router in pair:
        for replica in router.fleet.replicas.values():
            router.fleet.apply(replica, [number, 1], [], cleared=False)
    assert holders_of(pair[0].fleet, number) == ["a", "b"]
    status, answer = await call(pair[0], "POST", f"/admin/prefixes/{KEY}/reset")
    assert (status, answer["key"]) == (200, KEY)
    for router in pair:
        await eventually(lambda router=router: holders_of(router.fleet, number) == [])
        assert holders_of(router.fleet, 1) == ["a", "b"]
        assert (await router.get("/admin/replicas/a/blocks"))[1]["reset"] == [KEY]
    assert pair[0].fleet.index.matched_blocks([number, 1]).max() == 0, "what comes after is not found either"
    pair[1].fleet.apply(pair[1].fleet.replicas["a"], [number], [], cleared=False)
    await asyncio.sleep(0.1)
    assert holders_of(pair[1].fleet, number) == ["a"], "reset only once"


async def test_unknown_targets(pair):
    """404, and nothing is wished or noted."""
    for method, path, param in (
        ("PUT", "replicas/nobody/drain", "replica_id"),
        ("DELETE", "replicas/nobody/drain", "replica_id"),
        ("POST", "replicas/nobody/reset", "replica_id"),
        ("POST", f"prefixes/{KEY}/reset", "key"),
    ):
        status, answer = await call(pair[0], method, f"/admin/{path}")
        assert status == 404
        assert_error(answer, "not_found", param)
    status, answer = await call(pair[0], "POST", "/admin/prefixes/xyz/reset")
    assert (status, answer["error"]["param"]) == (400, "key")
    assert (await pair[0].get("/admin/audit"))[1] == {"entries": []}


async def test_every_change_is_noted(pair):
    """By whom, where and when; every router shows all of it, the newest first."""
    one, other = pair
    changes = [
        ("PUT", "replicas/a/drain", None, "drain", "a"),
        ("DELETE", "replicas/a/drain", None, "undrain", "a"),
        ("POST", "replicas/b/reset", None, "reset_replica", "b"),
        ("PUT", "policy", {"policy": "warm"}, "switch_policy", "warm"),
        ("DELETE", "policy", None, "forget_policy", ""),
        ("PUT", "experiment", {"control": "warm", "share": 0.5, "name": "x"}, "start_experiment", "x"),
        ("DELETE", "experiment", None, "end_experiment", "x"),
    ]
    for method, path, body, _, _ in changes:
        assert (await call(one, method, f"/admin/{path}", body))[0] == 200
    _, answer = await other.get("/admin/audit")
    assert [(one["action"], one["target"]) for one in answer["entries"][::-1]] == [
        each[3:] for each in changes
    ]
    times = [entry["time"] for entry in answer["entries"]]
    assert times == sorted(times, reverse=True)
    assert {entry["by"] for entry in answer["entries"]} == {"127.0.0.1, loopback"}
    assert {entry["router"] for entry in answer["entries"]} == {
        (await one.get("/admin/bookings"))[1]["router"]
    }
    assert len((await other.get("/admin/audit?limit=2"))[1]["entries"]) == 2
    for limit in ("0", "1001", "many"):
        status, answer = await other.get(f"/admin/audit?limit={limit}")
        assert (status, answer["error"]["param"]) == (400, "limit")


async def test_entries_have_a_bound(redis_server):
    """Long texts are cut, and old entries dropped."""
    redis = connect(redis_server.url)
    log = AuditLog(redis, Keys("test"), "r")
    await log.write("me", "action", "t" * 10_000, "d" * 10_000)
    [entry] = await log.entries(1)
    assert (len(entry.target), len(entry.detail)) == (MAX_TEXT, MAX_TEXT)
    await asyncio.gather(*(log.write("me", "action", str(number)) for number in range(MAX_ENTRIES + 300)))
    assert MAX_ENTRIES <= await redis.xlen("test:audit") < MAX_ENTRIES + 200
    await redis.aclose()


async def test_without_redis_nothing_is_done(router):
    """503, and this router goes on as before."""
    router.fleet.apply(router.fleet.replicas["a"], [int(KEY, 16)], [], cleared=False)
    for method, path in (
        ("PUT", "replicas/a/drain"),
        ("DELETE", "replicas/a/drain"),
        ("POST", "replicas/a/reset"),
        ("POST", f"prefixes/{KEY}/reset"),
        ("GET", "audit"),
    ):
        status, answer = await call(router, method, f"/admin/{path}")
        assert status == 503
        assert_error(answer, "redis_unavailable", kind="service_unavailable")
    assert not drained(router)
    assert holders_of(router.fleet, int(KEY, 16)) == ["a"]
