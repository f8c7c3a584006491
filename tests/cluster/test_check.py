"""`warmroute check`: agents, Redis and routers compared block by block."""

import msgspec
import pytest
from aiohttp import web

from cluster.errors import StoreUnavailableError
from cluster.operate.check import find_differences
from cluster.protocol.wire import Lease, ReplicaState
from cluster.settings import ClusterSettings
from cluster.store.ownership import OwnershipWriter

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Differences show after a moment instead of seconds."""
    monkeypatch.setattr("cluster.operate.check.ATTEMPTS", 3)
    monkeypatch.setattr("cluster.operate.check.PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("cluster.operate.check_bookings.PAUSE_SECONDS", 0.01)


BOOKED = {"running": 1, "queued_tokens": 40, "active_tokens": 90, "engine_tokens": 40}


def said(router, open_bookings=0, open_requests=0, waiting_requests=0, replicas=None, peers=None):
    """A router's answer about bookings."""
    return {
        "router": router,
        "open_bookings": open_bookings,
        "open_requests": open_requests,
        "waiting_requests": waiting_requests,
        "replicas": replicas or {},
        "peers": peers or {},
    }


@pytest.fixture
async def fleet(redis, keys, shared_redis):
    """A replica in Redis that owns blocks 1 to 3, and a server that plays its agent and a router."""

    class Fleet:
        settings = ClusterSettings(redis_url=shared_redis.url, deployment=keys.prefix)
        agent: dict | None = None
        router: dict | None = None
        bookings: dict | None = None
        other_bookings: dict | None = None

    fleet = Fleet()

    def answer(source):
        async def handle(_request):
            view = getattr(fleet, source)
            return web.json_response(view) if isinstance(view, dict) else web.Response(status=view or 404)

        return handle

    app = web.Application()
    app.router.add_get("/agent/mirror", answer("agent"))
    app.router.add_get("/router/admin/replicas/a/blocks", answer("router"))
    app.router.add_get("/router/admin/bookings", answer("bookings"))
    app.router.add_get("/other/admin/replicas/a/blocks", answer("router"))
    app.router.add_get("/other/admin/bookings", answer("other_bookings"))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fleet.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    writer = OwnershipWriter(redis, keys, "a", 30.0, 100)
    lease = Lease(
        replica="a", url="http://a", agent_url=f"{fleet.url}/agent", state=ReplicaState.READY, model="m"
    )
    await writer.open(lease, [1, 2, 3])
    fleet.agent = fleet.router = {
        "epoch": writer.epoch,
        "sequence": writer.sequence,
        "keys": [f"{key:016x}" for key in (1, 2, 3)],
    }
    fleet.bookings = said("r", open_bookings=1, open_requests=1, replicas={"a": BOOKED})
    fleet.other_bookings = said("o", peers={"r": {"a": BOOKED}})
    yield fleet
    await runner.cleanup()


async def check(fleet):
    """Run the comparison with the one router."""
    return await find_differences(fleet.settings, [f"{fleet.url}/router/"])


async def test_agreement(fleet):
    """All three equal: one line that says so, and the verdict."""
    report = await check(fleet)
    assert report.agree
    assert len(report.lines) == 2
    assert report.lines[0].startswith("a: no difference in 3 blocks at batch 1")
    assert report.lines[1] == "routers: 1, bookings: 1, each for a request that is open"


@pytest.mark.parametrize("source", ["agent", "router"])
async def test_blocks_that_change_too_fast(fleet, source):
    """A source that cannot say them at one moment is asked again, and told apart from one that is away."""
    setattr(fleet, source, 503)
    report = await check(fleet)
    assert not report.agree
    assert "change too fast" in report.lines[0]
    assert f"a: {source}" in report.lines[0]


async def check_both(fleet):
    """Run the comparison with two routers."""
    return await find_differences(fleet.settings, [f"{fleet.url}/router", f"{fleet.url}/other"])


async def test_routers_that_know_each_others_bookings(fleet):
    """What one has booked is what the other believes."""
    assert (await check_both(fleet)).agree


async def test_booking_without_a_request(fleet):
    """A booking that leaked is named with its router."""
    fleet.bookings["open_requests"] = 0
    report = await check(fleet)
    assert not report.agree
    assert report.lines[-1] == f"router {fleet.url}/router/: 1 bookings for 0 open requests and 0 waiting"


async def test_request_that_waits_is_a_request(fleet):
    """A booking may also stand for a request that has not been sent yet."""
    fleet.bookings |= {"open_requests": 0, "waiting_requests": 1}
    assert (await check(fleet)).agree


async def test_bookings_that_do_not_add_up(fleet):
    """More on replicas than there are bookings, or tokens of nobody, cannot be."""
    impossible = ({"running": 2}, {"running": 0}, {"running": 0, "queued_tokens": 0}, {"queued_tokens": -1})
    for changes in impossible:
        fleet.bookings["replicas"] = {"a": {**BOOKED, **changes}}
        assert not (await check(fleet)).agree


async def test_router_that_has_not_heard(fleet):
    """A lasting difference between what one has booked and what another believes."""
    fleet.other_bookings["peers"] = {}
    report = await check_both(fleet)
    assert not report.agree
    assert "believes that" in report.lines[-1]


async def test_dead_router_whose_bookings_are_gone(fleet):
    """Only routers that were asked for are compared: others may have died."""
    fleet.other_bookings["peers"]["dead"] = {"a": BOOKED}
    assert (await check_both(fleet)).agree


async def test_more_blocks_than_room(fleet, redis, keys):
    """No engine holds more blocks than it has room for."""
    lease = Lease(
        replica="a",
        url="",
        agent_url=f"{fleet.url}/agent",
        state=ReplicaState.READY,
        model="m",
        capacity_blocks=2,
    )
    await redis.hset(keys.lease("a"), "lease", msgspec.json.encode(lease))
    report = await check(fleet)
    assert not report.agree
    assert report.lines[0] == "a: owns 3 blocks, with room for 2"


async def test_router_that_lacks_a_block(fleet):
    """The line names the router and counts what is missing and what is too much."""
    fleet.router = {**fleet.router, "keys": [f"{key:016x}" for key in (1, 2, 7, 8)]}
    report = await check(fleet)
    assert not report.agree
    assert "lacks 1 blocks and has 2 too many" in report.lines[0]
    assert fleet.url in report.lines[0]


async def test_agent_is_the_truth(fleet):
    """When the agent knows better, Redis and router are both wrong."""
    fleet.agent = {**fleet.agent, "keys": []}
    report = await check(fleet)
    assert [line.split(" lacks")[0].split(" http")[0] for line in report.lines] == ["a: Redis", "a: router"]


async def test_source_that_lags_is_a_difference(fleet):
    """Equal blocks at another batch number, for all the time of the check, are no agreement."""
    fleet.router = {**fleet.router, "sequence": 0}
    report = await check(fleet)
    assert not report.agree


@pytest.mark.parametrize("source", ["agent", "router"])
async def test_source_that_does_not_answer(fleet, source):
    """Silence is no agreement."""
    setattr(fleet, source, None)
    report = await check(fleet)
    assert not report.agree
    assert any("does not answer" in line for line in report.lines)


async def test_redis_without_replicas(redis, shared_redis):
    """Nothing to compare is said, and is no difference."""
    report = await find_differences(ClusterSettings(redis_url=shared_redis.url), [])
    assert (report.agree, report.lines) == (True, ["Redis knows no replicas."])


async def test_without_redis():
    """There is no verdict without Redis."""
    with pytest.raises(StoreUnavailableError):
        await find_differences(ClusterSettings(redis_url="redis://127.0.0.1:1/0"), [])
