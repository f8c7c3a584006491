"""The overview: everything as it is now, in one object, as documented."""

import time

import msgspec
import pytest

from cluster.protocol.wire import Booked, Bookings, Load
from cluster.sync import follower
from policies.ring import shares_of, walk
from router.admin.overview import OverviewAnswer
from tests.router.test_requests import CHAT
from tests.waiting import eventually


async def overview(router):
    """The overview, whose shape is the documented one."""
    status, answer = await router.get("/admin/overview")
    assert status == 200
    assert msgspec.json.decode(msgspec.json.encode(msgspec.convert(answer, OverviewAnswer))) == answer
    return answer


async def test_shows_what_is_there(router):
    """Replicas by id with their state, policy, alarms, routers; before any request all rates are null."""
    answer = await overview(router)
    assert abs(answer["time"] - time.time()) < 5
    assert [replica["replica"] for replica in answer["replicas"]] == ["a", "b"]
    assert (answer["fleet"]["replicas"], answer["fleet"]["ready"], answer["fleet"]["draining"]) == (2, 2, 0)
    assert answer["fleet"]["hour"]["delivered"] is None
    assert answer["fleet"]["ttft"]["warm"] == {"count": 0, "p50": None, "p95": None, "p99": None}
    assert answer["policy"]["policy"] == "round-robin"
    assert "redis" in {alarm["kind"] for alarm in answer["alarms"]}
    [own] = answer["routers"]
    assert (own["router"], own["this"], own["running"]) == (answer["router"], True, 0)


async def test_requests_turn_up(router):
    """What replicas were booked, delivered and predicted; open requests count while they run."""
    for _ in range(4):
        async with router.post(CHAT) as response:
            assert response.status == 200
            await response.read()
    answer = await overview(router)
    assert [replica["hour"]["requests"] for replica in answer["replicas"]] == [2, 2]
    rates = answer["fleet"]["recent"]
    assert (rates["requests"], rates["prompt_tokens"], rates["delivered_tokens"]) == (4, 60, 16)
    assert rates["delivered"] == pytest.approx(16 / 60)
    assert sum(rates["misses"].values()) == rates["prompt_tokens"] - rates["delivered_tokens"]


async def test_bookings_of_all_routers(router):
    """Each router is shown with what it has booked, and each replica with what the others have."""
    replica = router.fleet.replicas["a"]
    booking = router.fleet.book(replica, [], 100)
    heard = Bookings("other", {"a": Booked(2, 30, 50, 10), "b": Booked(1, 5, 6, 0)}, complete=True)
    router.fleet.receive(heard, time.monotonic())
    answer = await overview(router)
    load = answer["replicas"][0]["load"]
    assert (load["booked"], load["booked_by_others"], load["queued_tokens"]) == (1, 2, 100)
    assert answer["fleet"]["queued_tokens"] == 135
    own, other = answer["routers"]
    assert (own["this"], own["running"], own["replicas"], own["active_tokens"]) == (True, 1, 1, 100)
    assert (other["router"], other["this"], other["running"]) == ("other", False, 3)
    assert (other["queued_tokens"], other["active_tokens"], other["replicas"]) == (35, 56, 2)
    booking.release(time.monotonic(), succeeded=False)


async def test_experiment_side_by_side(start_router, redis_server):
    """While one runs, both arms are part of it."""
    router = await start_router(redis_url=redis_server.url)
    await eventually(lambda: router.fleet.store_reachable)
    assert (await overview(router))["experiment"] is None
    plan = {"control": "least-load", "share": 0.5}
    async with router.client.put(router.url + "/admin/experiment", json=plan) as response:
        assert response.status == 200
    assert set((await overview(router))["experiment"]["arms"]) == {"default", "control"}


async def test_evictions_per_second(router):
    """Of the last ten seconds; a replica that has started anew begins at zero."""
    shown, replica = router.app.state.overview, router.fleet.replicas["a"]

    def per_second():
        found = shown.replicas()
        return [each.evictions_per_second for each in found]

    began = time.monotonic() + 1000
    for number in range(20):
        replica.load = Load(evicted_blocks=number**2)
        shown.sample(began + 2 * number)
    assert per_second() == [round((19**2 - 14**2) / 10, 2), 0.0]
    replica.epoch += 1
    replica.load = Load(evicted_blocks=3)
    shown.sample(began + 40)
    assert per_second() == [0.0, 0.0]


async def test_suspects_are_unreachable(router):
    """A replica that does not answer this router is said to be so, and not ready, whatever its lease says."""
    router.admit("http://127.0.0.1:1", "dead")
    router.fleet.drain({"a", "b"})
    async with router.post(CHAT) as response:
        assert response.status == 502
    await eventually(lambda: router.app.state.overview.replicas()[2].reachable is False)
    answer = await overview(router)
    assert [replica["drained"] for replica in answer["replicas"]] == [True, True, False]
    assert (answer["fleet"]["ready"], answer["fleet"]["draining"]) == (0, 2)


def test_ring_shares_are_those_of_keys():
    """What part of all keys meets a replica first; all parts are one."""
    replicas = tuple(f"r{number}" for number in range(5))
    shares = shares_of(replicas)
    assert sum(shares) == pytest.approx(1.0)
    met = [next(walk(replicas, key * 2**44)) for key in range(4000)]
    for row, share in enumerate(shares):
        assert met.count(row) / 4000 == pytest.approx(share, abs=0.03)
    assert shares_of(()) == []
    assert shares_of(("only",)) == [pytest.approx(1.0)]


async def test_ring_shares_follow_the_fleet(router, monkeypatch):
    """A replica that joins takes its share at once; each model has a ring of its own."""
    monkeypatch.setattr(follower, "MISSING_LEASE_SECONDS", 60)
    before = [replica["ring_share"] for replica in (await overview(router))["replicas"]]
    assert before == [pytest.approx(share, abs=1e-4) for share in shares_of(("a", "b"))]
    router.admit("http://127.0.0.1:1", "c")
    router.admit("http://127.0.0.1:1", "d", model="other")
    after = [replica["ring_share"] for replica in (await overview(router))["replicas"]]
    assert after == [pytest.approx(share, abs=1e-4) for share in (*shares_of(("a", "b", "c")), 1.0)]
