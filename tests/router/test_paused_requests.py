"""Requests that wait in the router until there is room in KV memory: all are answered, or leave no trace."""

import asyncio
import time

import pytest

from cluster.sync.follower import Follower
from policies.catalog import POLICIES
from policies.choice import require_some
from policies.types import Decision
from tests.router.test_held_requests import Gate, about, ask, names
from tests.waiting import eventually

PATIENCE = 1.5


def one_at_a_time(request, snapshot):
    """The first eligible replica, once nothing runs there."""
    require_some(int(snapshot.eligible.sum()))
    row = int(snapshot.eligible.argmax())
    waits = request.may_wait and bool(snapshot.running[row])
    return Decision(row, "in-order", snapshot.queued_tokens, waits=waits)


@pytest.fixture
async def router(start_router, engines, monkeypatch):
    """A router with one replica that runs one request at a time."""
    monkeypatch.setattr("router.app.POLICIES", {**POLICIES, "round-robin": one_at_a_time})
    monkeypatch.setattr("router.api.dispatch.NEED_ROOM", frozenset({one_at_a_time}))
    monkeypatch.setattr(Follower, "_set_reachable", lambda *_: None)
    router = await start_router(engines[0], max_paused_seconds=PATIENCE)
    router.admit(engines[0].url, capacity_blocks=100)
    await router.settled()
    return router


@pytest.fixture
async def running(router, engines):
    """What the first request, which is under way, waits for."""
    gate = Gate()
    engines[0].script.append(gate)
    gate.compute.set()
    task = asyncio.create_task(ask(router, about("one")))
    await eventually(lambda: engines[0].exchanges)
    yield gate
    gate.end.set()
    await task


async def paused(router, name, number):
    """A further request, which waits as one of so many."""
    task = asyncio.create_task(ask(router, about(name)))
    await eventually(lambda: len(router.fleet.programs.pauses) == number)
    return task


async def test_those_that_wait_go_one_by_one_when_others_end(router, engines, running):
    """In the order in which they came, and at once; meanwhile nothing is booked for them."""
    two = await paused(router, "two", 1)
    three = await paused(router, "three", 2)
    assert router.fleet.open_bookings == 1
    assert router.fleet.waiting_requests == 2
    began = time.monotonic()
    running.end.set()
    assert [(await task)[0] for task in (two, three)] == [200, 200]
    assert time.monotonic() - began < 0.9
    assert names(engines[0]) == ["one", "two", "three"]
    assert router.fleet.waiting_requests == len(router.fleet.programs.pauses) == 0
    await router.drained()


async def test_a_client_that_leaves_while_it_waits_leaves_nothing(router, engines, running):
    """The one behind it takes its place."""
    two = await paused(router, "two", 1)
    three = await paused(router, "three", 2)
    two.cancel()
    await eventually(lambda: router.fleet.waiting_requests == 1)
    running.end.set()
    assert (await three)[0] == 200
    assert names(engines[0]) == ["one", "three"]
    await router.drained()


async def test_nobody_waits_longer_than_the_bound(router, engines, running):
    """Then a request is sent though there is no room."""
    began = time.monotonic()
    two = await paused(router, "two", 1)
    assert (await two)[0] == 200
    assert PATIENCE <= time.monotonic() - began < PATIENCE + 2.0
    assert names(engines[0]) == ["one", "two"]
    assert router.fleet.open_bookings == 1


async def test_a_replica_that_joins_ends_the_waiting(router, engines, running):
    """Within a second, though no request has ended."""
    two = await paused(router, "two", 1)
    router.admit(engines[0].url, replica="0", capacity_blocks=100)
    assert (await two)[:2] == (200, "0")
