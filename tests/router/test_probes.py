"""Replicas that this router cannot reach, whatever their leases say: requests do not wait for them."""

import asyncio

import pytest

from cluster.protocol.wire import ReplicaState
from router.health import probes
from router.upstream import client as upstream
from tests.router.fake_engine import event, never_end, stay_silent, whole
from tests.waiting import eventually

MESSAGES = [{"role": "user", "content": "Hello!"}]
CHAT = {"model": "m", "messages": MESSAGES}


@pytest.fixture
async def router(monkeypatch, start_router, engines):
    """A router that probes quickly and whose own limits are far away; engine a is asked first."""
    monkeypatch.setattr(probes, "PROBE_SECONDS", 0.03)
    monkeypatch.setattr(upstream, "HEALTH_SECONDS", 0.05)
    monkeypatch.setattr(upstream, "ALIVE_SECONDS", 0.4)
    router = await start_router(*engines, failed_replica_seconds=0.01)
    await router.settled()
    return router


async def refuse(exchange):
    """Close the connection without an answer."""
    exchange.abort()


def slowly():
    """An event, and a script that answers once it is set."""
    release = asyncio.Event()

    async def slow(exchange):
        await release.wait()
        await exchange.whole(b"{}")

    return release, slow


SILENT = "replica a: does not answer this router"


async def degraded(router):
    """What `/healthz` complains about."""
    return (await router.get("/healthz"))[1]["degraded"]


async def test_request_leaves_a_replica_that_does_not_answer(router, engines):
    """Engine a hangs with a request; its health check hangs, too: the request is answered by b."""
    first, second = engines
    first.script.append(stay_silent)
    first.health = stay_silent
    async with router.post(CHAT) as response:
        assert response.status == 200
        assert response.headers["x-warmroute-replica"] == "b"
    assert len(first.exchanges) == len(second.exchanges) == 1
    await eventually(first.exchanges[0].gone.is_set)
    await router.drained()


@pytest.mark.parametrize("stream", [True, False])
async def test_request_waits_for_an_engine_that_only_works_long(router, engines, stream):
    """A long prefill is no failure: the engine says that it lives, and keeps the request."""
    first, second = engines
    release, slow = slowly()
    first.script.append(slow)
    async with asyncio.TaskGroup() as tasks:
        request = tasks.create_task(_status(router, {**CHAT, "stream": stream}))
        await eventually(lambda: first.health_checks > 2 * probes.FAILURES)
        assert not request.done()
        release.set()
    assert request.result() == 200
    assert not second.exchanges


async def _status(router, body):
    async with router.post(body) as response:
        await response.read()
        return response.status


async def test_request_stays_where_nobody_else_could_take_it(router, engines):
    """With no other replica ready, waiting is better than failing."""
    first, second = engines
    router.admit(second.url, "b", state=ReplicaState.DRAINING)
    release, slow = slowly()
    first.script.append(slow)
    first.health = refuse
    async with asyncio.TaskGroup() as tasks:
        request = tasks.create_task(_status(router, CHAT))
        await eventually(lambda: first.health_checks > 2 * probes.FAILURES)
        assert not request.done()
        release.set()
    assert request.result() == 200


async def test_request_moves_as_soon_as_another_replica_is_ready(router, engines):
    """It had to wait where it was; now there is a place to go."""
    first, second = engines
    router.admit(second.url, "b", state=ReplicaState.DRAINING)
    first.script.append(stay_silent)
    first.health = stay_silent
    async with asyncio.TaskGroup() as tasks:
        request = tasks.create_task(_status(router, CHAT))
        await eventually(lambda: first.health_checks > probes.FAILURES)
        router.admit(second.url, "b")
    assert request.result() == 200
    assert len(second.exchanges) == 1


async def test_suspect_gets_no_new_requests_until_it_answers(router, engines):
    """A replica that fails is left alone, shown as degraded, and used again once it says that it lives."""
    first, _ = engines
    first.script.append(refuse)
    first.health = refuse
    async with router.post(CHAT) as response:
        assert response.headers["x-warmroute-replica"] == "b"
    await eventually(lambda: first.health_checks > 2)
    assert SILENT in await degraded(router)
    for _ in range(4):
        assert await _status(router, CHAT) == 200
    assert len(first.exchanges) == 1
    first.health = whole(b"")
    replica = router.fleet.replicas["a"]
    await eventually(lambda: replica.failed_until == 0.0)
    assert SILENT not in await degraded(router)
    for _ in range(2):
        await _status(router, CHAT)
    assert len(first.exchanges) == 2


async def test_stream_that_has_begun_is_left_alone(router, engines):
    """Its bytes cannot be sent again: only its own limits end it."""
    first, _ = engines
    first.script.append(never_end)
    first.health = stay_silent
    async with router.post({**CHAT, "stream": True}) as response:
        long_enough = asyncio.get_running_loop().time() + 0.5
        async for chunk in response.content.iter_any():
            assert chunk.startswith(event("x")[:6])
            if asyncio.get_running_loop().time() > long_enough:
                break
        assert response.headers["x-warmroute-replica"] == "a"
    await router.drained()


@pytest.mark.parametrize("health", [stay_silent, refuse, whole(b"busy", 503)], ids=["silent", "cut", "503"])
@pytest.mark.parametrize("others", [True, False], ids=["of two", "the only one"])
async def test_engine_that_streams_lives_whatever_its_health_says(router, engines, health, others):
    """A busy engine is late with its health check: its stream proves that it lives. Requests wait for it, new
    ones go to it, and nothing is said of it; when it is idle again its health counts again.
    """
    first, second = engines
    if not others:
        router.fleet.dismiss("b")
    release, slow = slowly()
    first.script.extend([never_end, slow, slow])
    first.health = health
    async with router.post({**CHAT, "stream": True}), asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(_status(router, CHAT)) for _ in range(4 if others else 2)]
        await eventually(lambda: len(first.exchanges) == 3)
        suspected_until = asyncio.get_running_loop().time() + 10 * (probes.PROBE_SECONDS + 0.05)
        while asyncio.get_running_loop().time() < suspected_until:
            assert not router.fleet.replicas["a"].failed_until
            assert SILENT not in await degraded(router)
            await asyncio.sleep(0.02)
        assert len(first.exchanges) == 3
        assert sum(task.done() for task in waiting) == len(second.exchanges) == (2 if others else 0)
        release.set()
    assert [task.result() for task in waiting] == [200] * len(waiting)
    if others:
        router.fleet.dismiss("b")
    first.script.append(stay_silent)
    monitored = asyncio.create_task(_status(router, CHAT))
    await eventually(lambda: router.fleet.replicas["a"].failed_until > 0)
    first.health = whole(b"")
    await eventually(lambda: router.fleet.replicas["a"].failed_until == 0)
    monitored.cancel()
    await router.drained()


async def test_requests_leave_an_engine_that_fell_asleep(router, engines):
    """It is healthy and would answer once it is woken up: what waits there goes elsewhere, and nothing new
    goes there, also of conversations that were there before. Once nobody is awake, new requests are told.
    """
    first, second = engines
    first.script.append(stay_silent)
    waiting = asyncio.create_task(_status(router, CHAT))
    await eventually(lambda: len(first.exchanges) == 1)
    router.admit(first.url, "a", state=ReplicaState.ASLEEP)
    assert await waiting == 200
    assert [await _status(router, CHAT) for _ in range(4)] == [200] * 4
    assert len(second.exchanges) == 5
    router.admit(second.url, "b", state=ReplicaState.ASLEEP)
    async with router.post(CHAT) as response:
        assert response.status == 503
        assert "asleep" in (await response.json())["error"]["message"]
    router.admit(first.url, "a")
    assert await _status(router, CHAT) == 200
    assert len(first.exchanges) == 2
    await router.drained()


async def test_request_waits_for_the_only_engine_to_wake_up(router, engines):
    """There is nowhere else to go."""
    first, _ = engines
    router.fleet.dismiss("b")
    release, slow = slowly()
    first.script.append(slow)
    waiting = asyncio.create_task(_status(router, CHAT))
    await eventually(lambda: len(first.exchanges) == 1)
    router.admit(first.url, "a", state=ReplicaState.ASLEEP)
    await asyncio.sleep(3 * probes.PROBE_SECONDS)
    assert not waiting.done()
    release.set()
    assert await waiting == 200


async def test_suspects_that_leave_are_forgotten(router, engines):
    """A replica that is gone is not asked for ever."""
    first, _ = engines
    first.script.append(refuse)
    first.health = refuse
    await _status(router, CHAT)
    await eventually(lambda: first.health_checks > 0)
    router.fleet.dismiss("a")
    await asyncio.sleep(3 * probes.PROBE_SECONDS)
    asked = first.health_checks
    await asyncio.sleep(3 * probes.PROBE_SECONDS)
    assert first.health_checks == asked
    assert SILENT not in await degraded(router)


async def test_open_requests_are_counted(router, engines):
    """`/admin/bookings` shows each open request once, as request and as booking, and none at the end."""
    first, _ = engines
    first.script.append(never_end)
    async with router.post({**CHAT, "stream": True}):
        _, answer = await router.get("/admin/bookings")
        assert (answer["open_requests"], answer["open_bookings"]) == (1, 1)
        [booked] = answer["replicas"].values()
        assert (booked["running"], booked["queued_tokens"]) == (1, 0)
        assert booked["active_tokens"] > 0
        assert answer["peers"] == {}
    await router.drained()
    _, answer = await router.get("/admin/bookings")
    assert (answer["open_requests"], answer["open_bookings"], answer["replicas"]) == (0, 0, {})
