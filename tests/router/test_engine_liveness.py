"""Engines of which Redis has no lease are asked by the router itself."""

import asyncio

import pytest

from cluster.fleet.replicas import Replica
from cluster.process.tasks import cancel_and_wait
from cluster.protocol.wire import Lease, ReplicaState
from router.health import engine_liveness
from router.health.engine_liveness import FAILURES, EngineLiveness
from tests.waiting import eventually


class Upstream:
    """Plays engines; `healthy` are the URLs of those that answer."""

    def __init__(self):
        self.healthy = set()
        self.questions = []

    async def is_healthy(self, url):
        self.questions.append(url)
        await asyncio.sleep(0)
        return url in self.healthy


def replica(name):
    """One that was ready."""
    return Replica(Lease(replica=name, url=name, state=ReplicaState.READY, model="m"), 1, 0)


@pytest.fixture
async def upstream(monkeypatch):
    """Engines that answer at once."""
    monkeypatch.setattr(engine_liveness, "ASK_SECONDS", 0.005)
    return Upstream()


@pytest.fixture
async def liveness(upstream):
    """A liveness at work."""
    liveness = EngineLiveness(upstream)
    task = asyncio.create_task(liveness.run())
    yield liveness
    await cancel_and_wait(task)


async def test_living_engine_lives_until_it_fails_several_times(upstream, liveness):
    """One unanswered question says little; a dead engine gets no requests while others can take them."""
    one = replica("a")
    upstream.healthy.add("a")
    assert liveness.lives(one) is None
    await eventually(lambda: liveness.lives(one) is True)
    upstream.healthy.clear()
    before = len(upstream.questions)
    await eventually(lambda: liveness.lives(one) is False)
    assert len(upstream.questions) - before >= FAILURES
    assert one.failed_until > 0
    upstream.healthy.add("a")
    await eventually(lambda: liveness.lives(one) is True)


async def test_engine_that_never_answered_is_dead(upstream, liveness):
    """After as many questions."""
    one = replica("a")
    await eventually(lambda: liveness.lives(one) is False)


async def test_nobody_is_asked_about_whom_nobody_wants_to_know(upstream, liveness, monkeypatch):
    """A lease that is back ends the questions."""
    monkeypatch.setattr(engine_liveness, "WANTED_SECONDS", 0.02)
    liveness.lives(replica("a"))
    await eventually(lambda: upstream.questions)
    await eventually(lambda: not liveness._engines)
    asked = len(upstream.questions)
    await asyncio.sleep(0.05)
    assert len(upstream.questions) == asked
