"""Whatever happens to Redis, requests are answered, it is said what is wrong, and then the index is exact.

A real agent beside a real router, both reaching a real Redis by way of a link that a test can slow down or
cut.
"""

import asyncio
import time

import pytest

from cluster.process.tasks import cancel_and_wait
from cluster.store.store import connect
from tests.chaos.proxy import Link
from tests.redis_faults import FAULTS
from tests.shifted_clock import ShiftedClock
from tests.waiting import eventually
from tests.workers.fake_engine import FakeEngine as EngineOfAgent
from workers.agent.agent import Agent
from workers.settings import WorkerSettings

pytestmark = pytest.mark.integration

SECONDS = 6.0
"""How long a fault lasts: leases end after 3 s, and 1.5 s later their replicas would be dismissed."""
PROMPT = "hello 1 2"
"""As many tokens as the engine counts."""


class Party:
    """One router, one agent, one engine, one Redis."""

    def __init__(self, router, agent, events, redis, link):
        self.router, self.agent, self.events, self.redis, self.link = router, agent, events, redis, link
        self.answers = []
        self._num_blocks = 0

    async def store(self):
        """The engine announces a new block."""
        self._num_blocks += 1
        number = self._num_blocks
        tokens = list(range(number * 4, number * 4 + 4))
        await self.events.publisher.publish(self.events.stored([number], None, tokens))
        await eventually(lambda: len(self.agent.owned_keys()) == number)

    def is_exact(self):
        """Whether the router believes what the agent knows."""
        replica = self.router.fleet.replicas.get(self.agent.replica)
        return replica is not None and self.router.fleet.index.owned(replica.slot) == self.agent.owned_keys()

    async def ask(self):
        """What a client sends all the time."""
        stream = False
        while True:
            stream = not stream
            body = {"model": "tiny", "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}
            async with self.router.post(body) as response:
                self.answers.append((response.status, (await response.text())[:100]))
            await asyncio.sleep(0.02)

    async def degraded(self):
        """What `/healthz` says."""
        return " | ".join((await self.router.get("/healthz"))[1]["degraded"])

    async def degraded_kinds(self):
        """What the metrics say."""
        async with self.router.client.get(self.router.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        found = (
            line.removeprefix('warmroute_degraded{kind="').split('"} ')
            for line in lines
            if "degraded{" in line
        )
        return {kind for kind, value in found if float(value)}


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """The wall clock, before anybody has looked at it."""
    return ShiftedClock(tmp_path, monkeypatch)


@pytest.fixture
async def party(start_router, engines, clock, redis_server, tiny_model):
    """Everything, up and agreeing."""
    link = Link("redis", redis_server.port)
    await link.listen()
    url = f"redis://127.0.0.1:{link.port}/0"
    events = EngineOfAgent(tiny_model)
    await events.start()
    redis = connect(url)
    settings = WorkerSettings(redis_url=url)
    agent = Agent(events.url, redis, settings, "r", advertise_url=engines[0].url)
    following = asyncio.create_task(agent.run())
    router = await start_router(redis_url=url, tokenizers={}, policy="warm")
    party = Party(router, agent, events, redis_server, link)
    try:
        await router.ready()
        await party.store()
        await eventually(party.is_exact)
        yield party
    finally:
        await cancel_and_wait(following)
        await redis.aclose()
        await events.close()
        await link.close()


@pytest.mark.parametrize("name", FAULTS)
async def test_nothing_fails_all_is_said_and_all_is_exact_again(party, name):
    """No request fails; `/healthz` and a metric name it within 2 s; 2 s after it the index is exact."""
    fault, words, kind = FAULTS[name]
    client = asyncio.create_task(party.ask())
    await asyncio.sleep(0.2)
    async with fault(party.redis, party.link):
        began = time.monotonic()
        while words not in await party.degraded() or kind not in await party.degraded_kinds():
            assert time.monotonic() - began < 2.0, await party.degraded()
            await asyncio.sleep(0.02)
        await party.store()
        await asyncio.sleep(SECONDS - (time.monotonic() - began))
        await party.store()
        num_answered = len(party.answers)
    await eventually(party.is_exact, seconds=2.0)
    await eventually(lambda: len(party.answers) > num_answered)
    assert not client.done()
    await cancel_and_wait(client)
    assert {status for status, _ in party.answers} == {200}, party.answers[-1]
    assert num_answered > 50
    lifted = time.monotonic()
    while wrong := await party.degraded():
        assert time.monotonic() - lifted < 2.0, wrong
        await asyncio.sleep(0.02)
    party.router.fleet.check_integrity()


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.parametrize("who", ["redis", "routers", "everybody"])
async def test_clock_that_is_set_harms_nothing(party, clock, who, hours):
    """An hour forwards or back, and set right again: nothing fails, the next change is known everywhere."""
    before = int(party.redis.client("TIME")[0])
    client = asyncio.create_task(party.ask())
    for seconds in (hours * 3600, 0):
        clock.set(who, seconds)
        if who != "routers":
            assert int(party.redis.client("TIME")[0]) - before == pytest.approx(seconds, abs=60)
        await party.store()
        await eventually(party.is_exact, seconds=2.0)
        await asyncio.sleep(2.0)
        await party.store()
        await eventually(party.is_exact, seconds=2.0)
        assert await party.degraded() == ""
    assert not client.done()
    await cancel_and_wait(client)
    assert {status for status, _ in party.answers} == {200}, party.answers[-1]
