"""Engines of which Redis has no lease are asked by the router itself."""

import asyncio

import pytest

from cluster.fleet.replicas import Replica
from cluster.process.tasks import cancel_and_wait
from cluster.protocol.wire import Lease, ReplicaState
from router.health import engine_witness
from router.health.engine_witness import FAILURES, EngineWitness
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
    monkeypatch.setattr(engine_witness, "ASK_SECONDS", 0.005)
    return Upstream()


@pytest.fixture
async def witness(upstream):
    """A witness at work."""
    witness = EngineWitness(upstream)
    task = asyncio.create_task(witness.run())
    yield witness
    await cancel_and_wait(task)


async def test_living_engine_lives_until_it_fails_several_times(upstream, witness):
    """One unanswered question says little; a dead engine gets no requests while others can take them."""
    one = replica("a")
    upstream.healthy.add("a")
    assert witness.lives(one) is None
    await eventually(lambda: witness.lives(one) is True)
    upstream.healthy.clear()
    before = len(upstream.questions)
    await eventually(lambda: witness.lives(one) is False)
    assert len(upstream.questions) - before >= FAILURES
    assert one.failed_until > 0
    upstream.healthy.add("a")
    await eventually(lambda: witness.lives(one) is True)


async def test_engine_that_never_answered_is_dead(upstream, witness):
    """After as many questions."""
    one = replica("a")
    await eventually(lambda: witness.lives(one) is False)


async def test_nobody_is_asked_about_whom_nobody_wants_to_know(upstream, witness, monkeypatch):
    """A lease that is back ends the questions."""
    monkeypatch.setattr(engine_witness, "WANTED_SECONDS", 0.02)
    witness.lives(replica("a"))
    await eventually(lambda: upstream.questions)
    await eventually(lambda: not witness._engines)
    asked = len(upstream.questions)
    await asyncio.sleep(0.05)
    assert len(upstream.questions) == asked
