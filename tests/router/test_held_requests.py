"""Requests that wait in the router for room at an engine: all of them are answered, whatever happens."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from cluster.protocol.wire import Booked, Bookings, ReplicaState
from cluster.sync.follower import Follower
from policies.catalog import POLICIES
from policies.choice import require_some
from policies.types import Decision
from router.api import dispatch
from tests.router.fake_engine import DONE, answer, die_before_headers, event, stay_silent
from tests.router.test_requests import CHAT, STREAM, send_raw
from tests.waiting import eventually

ROOM = 1
"""Tokens: an engine works on one prompt at a time."""


def in_order(request, snapshot):
    """The first eligible replica."""
    require_some(int(snapshot.eligible.sum()))
    row = int(snapshot.eligible.argmax())
    return Decision(row, "in-order", snapshot.queued_tokens, ROOM)


def about(name, stream=True, words=0):
    """A request that can be told from others."""
    text = f"{name} " + "water " * words
    return {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream, "user": name}


def names(engine):
    """Which requests an engine got."""
    return [exchange.json.get("user") for exchange in engine.exchanges]


class Gate:
    """A behaviour: a first token when it is allowed, a proper end when that is allowed."""

    def __init__(self):
        self.compute = asyncio.Event()
        self.end = asyncio.Event()

    async def __call__(self, exchange):
        """Answer a stream, or a whole request at its end."""
        if not exchange.json["stream"]:
            await self.end.wait()
            await answer(exchange)
            return
        await self.compute.wait()
        await exchange.head()
        await exchange.chunk(event("he"))
        await self.end.wait()
        await exchange.chunk(DONE)
        await exchange.end()


@pytest.fixture
async def router(start_router, engines, monkeypatch):
    """A router with replicas a and b that believes in a living Redis."""
    monkeypatch.setattr("router.app.POLICIES", {**POLICIES, "round-robin": in_order})
    monkeypatch.setattr(Follower, "_set_reachable", lambda *_: None)
    router = await start_router(*engines, failed_replica_seconds=0.2)
    await router.settled()
    return router


@pytest.fixture
def gate(engines):
    """What the first request to engine a waits for."""
    gate = Gate()
    engines[0].script.append(gate)
    return gate


async def ask(router, body):
    """Status, replica and text of an answer."""
    async with router.post(body) as response:
        return response.status, response.headers["x-warmroute-replica"], await response.read()


@asynccontextmanager
async def asking(router, engine, *bodies):
    """Requests one after the other: the first reaches the engine, the others wait."""
    tasks = []
    for number, body in enumerate(bodies, 1):
        tasks.append(asyncio.create_task(ask(router, body)))
        await eventually(lambda number=number: router.fleet.open_bookings == number)
        await eventually(lambda: engine.exchanges)
    assert router.fleet.replicas["a"].held == router.fleet.waiting_requests == len(bodies) - 1
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_request_is_sent_when_the_first_token_of_an_earlier_one_comes(router, engines, gate):
    """Until then the engine does not see it; operators see that it waits, and afterwards for how long."""
    with capture_logs() as logs:
        async with asking(router, engines[0], about("one"), about("two")) as (one, two):
            [replica, _] = (await router.get("/admin/replicas"))[1]["replicas"]
            assert (replica["load"]["booked"], replica["load"]["held"]) == (2, 1)
            assert replica["load"]["engine_tokens"] < replica["load"]["queued_tokens"]
            bookings = (await router.get("/admin/bookings"))[1]
            counts = bookings["open_bookings"], bookings["open_requests"], bookings["waiting_requests"]
            assert counts == (2, 1, 1)
            assert names(engines[0]) == ["one"]
            await asyncio.sleep(0.05)
            gate.compute.set()
            assert (await two)[:2] == (200, "a")
            assert not one.done()
            gate.end.set()
            await one
        await router.drained()
    waited = {line["request_id"]: line["held_ms"] for line in logs if line["event"] == "request_finished"}
    assert sorted(milliseconds > 50 for milliseconds in waited.values()) == [False, True]
    async with router.client.get(f"{router.url}/metrics") as response:
        text = await response.text()
    labels = 'arm="default",model="m",policy="round-robin"'
    assert f"warmroute_held_seconds_count{{{labels}}} 2.0" in text
    assert "warmroute_retries_total 0.0" in text


async def test_events_make_room_for_whole_answers(router, engines, gate):
    """The first token of an answer that is not streamed is never seen; its prompt's blocks are."""
    async with asking(router, engines[0], about("one", stream=False), about("two")) as (_, two):
        replica = router.fleet.replicas["a"]
        router.fleet.apply(replica, next(iter(replica.prefilling))._keys, (), cleared=False)
        assert (await two)[:2] == (200, "a")
        gate.end.set()
    await router.drained()


async def test_shorter_ones_go_first(router, engines, gate):
    """Of those that came at about the same time."""
    bodies = [about("first"), about("long", words=300), about("short"), about("middle", words=60)]
    async with asking(router, engines[0], *bodies) as tasks:
        gate.compute.set()
        gate.end.set()
        assert {status for status, *_ in await asyncio.gather(*tasks)} == {200}
    assert names(engines[0]) == ["first", "short", "middle", "long"]
    await router.drained()


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_while_its_request_waits(router, engines, gate, stream):
    """It leaves no booking, the engine never hears of it, and the next one takes its turn."""
    async with asking(router, engines[0], about("one")) as (one,):
        _, writer = await send_raw(router, about("gone", stream))
        await eventually(lambda: router.fleet.replicas["a"].held == 1)
        last = asyncio.create_task(ask(router, about("last", words=5)))
        await eventually(lambda: router.fleet.replicas["a"].held == 2)
        writer.close()
        await eventually(lambda: router.fleet.open_bookings == 2)
        gate.compute.set()
        gate.end.set()
        await asyncio.gather(one, last)
    assert names(engines[0]) == ["one", "last"]
    assert router.fleet.waiting_requests == 0
    await router.drained()


@pytest.mark.parametrize("state", [ReplicaState.DRAINING, ReplicaState.UNREACHABLE, None])
async def test_replica_that_leaves_while_requests_wait(router, engines, gate, state):
    """They are decided anew and answered elsewhere; that is no failed attempt."""
    with capture_logs() as logs:
        async with asking(router, engines[0], about("one"), about("two"), about("three")) as tasks:
            if state is None:
                router.fleet.dismiss("a")
            else:
                router.admit(engines[0].url, "a", state=state)
            assert [(await task)[:2] for task in tasks[1:]] == [(200, "b"), (200, "b")]
            gate.compute.set()
            gate.end.set()
            await tasks[0]
        await router.drained()
    assert names(engines[0]) == ["one"]
    assert [line["attempts"] for line in logs if line["event"] == "request_finished"] == [1, 1, 1]


async def test_replica_that_dies_while_requests_wait(router, engines):
    """Those that wait do not follow into the fault: one attempt fails, and all are answered elsewhere."""
    die = asyncio.Event()

    async def die_later(exchange):
        await die.wait()
        await die_before_headers(exchange)

    engines[0].script.append(die_later)
    async with asking(router, engines[0], *(about(str(number)) for number in range(5))) as tasks:
        die.set()
        assert [(await task)[:2] for task in tasks] == [(200, "b")] * 5
    assert names(engines[0]) == ["0"]
    await router.drained()


async def test_only_replica_fails_while_requests_wait(router, engines):
    """Where there is nobody else, those that wait are sent to it all the same, each in its turn."""
    router.fleet.dismiss("b")
    engines[0].script.extend([die_before_headers, answer])
    statuses = await asyncio.gather(*(ask(router, about(str(number))) for number in range(5)))
    assert {status for status, *_ in statuses} == {200}
    await router.drained()


@pytest.mark.parametrize("limit", ["MAX_HELD_SECONDS", "redis"])
async def test_nobody_waits_for_ever(router, engines, gate, monkeypatch, limit):
    """After the longest wait a request joins its engine's queue; without Redis it does so at once."""
    monkeypatch.setattr(dispatch, "LOOK_SECONDS", 0.01)
    if limit != "redis":
        monkeypatch.setattr(dispatch, limit, 0.1)
    async with asking(router, engines[0], about("one"), about("two")) as (one, two):
        if limit == "redis":
            router.fleet.store_reachable = False
        assert (await two)[:2] == (200, "a")
        assert not one.done()
        assert names(engines[0]) == ["one", "two"]
    await router.drained()


async def test_dead_routers_bookings_do_not_keep_others_waiting(router, engines, monkeypatch):
    """A router that falls silent is forgotten while a request waits for its work, though no other comes."""
    monkeypatch.setattr(dispatch, "LOOK_SECONDS", 0.05)
    router.fleet.receive(Bookings("dead", {"a": Booked(1, 500, 500, 500)}), time.monotonic() - 1.4)
    status, replica, _ = await asyncio.wait_for(ask(router, CHAT), 1.0)
    assert (status, replica) == (200, "a")
    await router.drained()


async def test_all_are_answered_under_load(router, engines):
    """Hundreds at once, of all lengths, streamed or not, some of whose clients leave: no request hangs."""

    async def client(number):
        body = about(str(number), stream=number % 3 > 0, words=number % 40)
        if number % 5:
            return (await ask(router, body))[0]
        _, writer = await send_raw(router, body)
        await asyncio.sleep(number / 1_000)
        writer.close()
        return 200

    statuses = await asyncio.wait_for(asyncio.gather(*map(client, range(200))), 15)
    assert set(statuses) == {200}
    await router.drained()
    assert router.fleet.waiting_requests == 0
    assert not router.fleet._waiting


async def test_least_load_makes_nobody_wait(start_router, engines, monkeypatch):
    """A policy that asks for no room gets the engine's own queue."""
    monkeypatch.setattr(Follower, "_set_reachable", lambda *_: None)
    router = await start_router(engines[0], policy="least-load")
    await router.settled()
    engines[0].script.extend([stay_silent] * 3)
    clients = [(await send_raw(router, STREAM))[1] for _ in range(3)]
    await eventually(lambda: len(engines[0].exchanges) == 3)
    assert router.fleet.replicas["a"].held == 0
    for writer in clients:
        writer.close()
    await router.drained()


async def test_shutdown_while_requests_wait(router, engines, gate):
    """A client that waits is cut off with the others when a router ends, and its request is never sent."""
    async with asking(router, engines[0], about("one"), about("two")):
        began = time.monotonic()
        await router.server.shutdown()
        assert time.monotonic() - began < 5
    assert names(engines[0]) == ["one"]
    assert router.fleet.open_bookings == router.fleet.waiting_requests == 0
