"""An agent between an engine under the test's control and a real Redis."""

import asyncio
import contextlib
import time

import aiohttp
import msgspec
import pytest

from cluster.errors import FencedError, StartUpError
from cluster.process import tasks
from cluster.prompts.tokenizer import tokenizer_fingerprint
from cluster.protocol.block_keys import block_keys, unpack_keys
from cluster.protocol.wire import Batch, Lease, Load, ReplicaState
from cluster.store.ownership import OwnershipWriter
from tests.workers.fake_engine import FakeEngine
from workers.agent import publication
from workers.agent.agent import Agent, default_replica_id
from workers.agent.incarnation import Incarnation
from workers.agent.main import engine_addresses, serve_agents
from workers.agent.publication import Publication
from workers.engines.engine import EngineClient

pytestmark = pytest.mark.integration

REPLICA = "r1"


class Watched:
    """What routers see of the replica."""

    def __init__(self, store, settings):
        self.store, self.keys = store, settings.keys

    async def lease(self, replica: str = REPLICA) -> Lease | None:
        value = await self.store.hget(self.keys.lease(replica), "lease")
        return msgspec.json.decode(value, type=Lease) if value else None

    async def epoch(self) -> int:
        return int(await self.store.hget(self.keys.lease(REPLICA), "epoch") or 0)

    async def owned(self) -> set[int]:
        members = await self.store.smembers(self.keys.owned(REPLICA, await self.epoch()))
        return set(unpack_keys(b"".join(members)))

    async def load(self) -> Load:
        return msgspec.msgpack.decode(await self.store.get(self.keys.load(REPLICA)), type=Load)

    async def is_ready(self) -> bool:
        lease = await self.lease()
        return lease is not None and lease.state == ReplicaState.READY and lease.publishes_events

    async def has_state(self, state: ReplicaState) -> bool:
        lease = await self.lease()
        return lease is not None and lease.state == state

    async def has_alarm(self, text: str) -> bool:
        lease = await self.lease()
        return lease is not None and any(text in alarm for alarm in lease.alarms)


@pytest.fixture
def seen(store, settings):
    """What routers see in Redis."""
    return Watched(store, settings)


@contextlib.asynccontextmanager
async def _running(agent: Agent):
    task = asyncio.create_task(agent.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await agent.close()


@pytest.fixture
async def agent(engine, store, settings, seen, eventually):
    """An agent that has found its engine."""
    agent = Agent(engine.url, store, settings, REPLICA)
    async with _running(agent):
        await eventually(seen.is_ready)
        yield agent


def _keys_of(engine: FakeEngine, tokens: list[int], lora: str = "", salt: str = "") -> list[int]:
    lease = Lease(
        replica=REPLICA,
        url="",
        state=ReplicaState.READY,
        model="tiny",
        block_size=engine.block_size,
        tokenizer_fingerprint=tokenizer_fingerprint(engine.model),
    )
    return block_keys(lease.namespace(lora, salt).root(), tokens, engine.block_size)


TOKENS = list(range(12))


async def test_a_lease_says_what_the_engine_serves(engine, agent, seen):
    """Model, aliases, adapters, sizes and the tokenizer come from the engine itself."""
    lease = await seen.lease()
    assert (lease.model, lease.aliases, lease.adapters) == ("tiny", ("tiny-alias",), ("lora-a",))
    assert (lease.block_size, lease.capacity_blocks, lease.max_model_len) == (4, 100, 512)
    assert lease.url == engine.url
    assert lease.model_directory == str(engine.model)
    assert lease.tokenizer_fingerprint == tokenizer_fingerprint(engine.model)
    assert lease.alarms == ()


async def test_events_become_ownership(engine, agent, seen, eventually):
    """Stores and removals reach Redis as the keys that a router computes."""
    await engine.publisher.publish(engine.stored([1, 2, 3], None, TOKENS))
    keys = _keys_of(engine, TOKENS)
    await eventually(lambda: _same(seen.owned(), set(keys)))
    await engine.publisher.publish(engine.removed(3))
    await eventually(lambda: _same(seen.owned(), set(keys[:2])))
    assert not await agent.verify()


async def test_salt_and_adapter_separate(engine, agent, seen, eventually):
    """The cache salt of block 0 and the adapter are part of the namespace."""
    fields = {"lora_name": "lora-a", "extra_keys": [["lora-a", "tenant"], ["lora-a"], ["lora-a"]]}
    await engine.publisher.publish(engine.stored([1, 2, 3], None, TOKENS, **fields))
    await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS, "lora-a", "tenant"))))


async def test_routers_may_reach_the_engine_elsewhere(engine, store, settings, seen, eventually):
    """The lease and the default id say the advertised address; events come from the engine's own."""
    agent = Agent(engine.url, store, settings, advertise_url="http://gateway.example:81/")
    async with _running(agent):
        assert agent.replica == "gateway.example-81"
        await eventually(lambda: _ready(seen, agent.replica))
        assert (await seen.lease(agent.replica)).url == "http://gateway.example:81"
        await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
        await eventually(lambda: agent.owned_keys() == set(_keys_of(engine, TOKENS[:4])))


async def test_a_running_engine_is_replayed(engine, store, settings, seen, eventually):
    """What the engine announced before the agent started is known after it."""
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await engine.publisher.publish(engine.stored([2], 1, TOKENS[4:8]))
    async with _running(Agent(engine.url, store, settings, REPLICA)):
        await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS[:8]))))


async def test_one_event_batch_is_one_batch_in_redis(engine, agent, store, settings, seen, eventually):
    """Batches are numbered from 1 and are published on the channel as they are logged."""
    async with store.pubsub() as channel:
        await channel.subscribe(settings.keys.batches)
        await channel.get_message(timeout=1)
        started = time.perf_counter()
        await engine.publisher.publish(engine.stored([1, 2, 3], None, TOKENS))
        message = await channel.get_message(ignore_subscribe_messages=True, timeout=2)
        elapsed = time.perf_counter() - started
    batch = msgspec.msgpack.decode(message["data"], type=Batch)
    assert (batch.replica, batch.epoch, batch.sequence) == (REPLICA, agent.epoch, 1)
    assert set(unpack_keys(batch.stored)) == set(_keys_of(engine, TOKENS))
    assert elapsed < 0.2


async def test_lost_batches_are_replayed(engine, agent, seen, eventually):
    """A gap in the sequence is filled from the engine's buffer."""
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await engine.publisher.publish(engine.stored([2], 1, TOKENS[4:8]), drop=True)
    await engine.publisher.publish(engine.stored([3], 2, TOKENS[8:]))
    await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS))))
    assert (await seen.lease()).alarms == ()


async def test_a_lost_last_batch_is_noticed(engine, agent, seen, eventually):
    """A batch that is lost before a silence is asked for."""
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]), drop=True)
    await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS[:4]))))


async def test_events_beyond_replay_empty_the_mirror(engine, agent, seen, eventually):
    """When the engine no longer has what was lost: a new epoch, what comes after it, and an alarm."""
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS[:4]))))
    epoch = await seen.epoch()
    await engine.publisher.publish(engine.removed(1), drop=True)
    engine.publisher.buffer.clear()
    await engine.publisher.publish(engine.stored([7], None, TOKENS[4:8]))
    await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS[4:8]))))
    assert await seen.epoch() > epoch
    await eventually(lambda: seen.has_alarm("are lost"))


async def test_restart_shows_in_the_process_start_time(engine, agent, seen, eventually):
    """Another process at the same address owns nothing until it says so."""
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS[:4]))))
    epoch = await seen.epoch()
    await engine.renew_publisher()
    engine.start_time = 2000.0
    await eventually(lambda: _later(seen, epoch))
    await eventually(seen.is_ready)
    assert await seen.owned() == set()
    await engine.publisher.publish(engine.stored([9], None, TOKENS[4:8]))
    await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS[4:8]))))


async def test_restart_shows_in_the_sequence(engine, agent, seen, eventually):
    """A sequence that went back means another process, whatever the metrics say."""
    for number in range(3):
        await engine.publisher.publish(engine.stored([number], None, [number] * 4))
    await eventually(lambda: _count(seen.owned(), 3))
    epoch = await seen.epoch()
    await engine.renew_publisher()
    await engine.publisher.publish(engine.stored([9], None, TOKENS[4:8]))
    await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS[4:8]))))
    assert await seen.epoch() > epoch


async def test_a_dead_engine_owns_nothing_at_once(engine, agent, seen, eventually):
    """A refused connection ends the incarnation; the replica is ready again when the engine is."""
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await eventually(lambda: _count(seen.owned(), 1))
    epoch = await seen.epoch()
    await engine.stop()
    await eventually(lambda: seen.has_state(ReplicaState.UNREACHABLE))
    assert await seen.epoch() > epoch
    assert await seen.owned() == set()
    assert await seen.has_alarm("the engine")
    await engine.renew_publisher()
    engine.start_time += 1
    await engine.start()
    await eventually(seen.is_ready)
    assert (await seen.lease()).alarms == ()


async def test_a_supervisor_can_end_an_incarnation(engine, agent, seen, eventually):
    """`engine_gone` opens a new epoch before the engine's silence shows."""
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await eventually(lambda: _count(seen.owned(), 1))
    epoch = await seen.epoch()
    agent.engine_gone("killed by a test")
    await eventually(lambda: _later(seen, epoch))


async def test_an_unhealthy_engine_keeps_its_blocks(engine, agent, seen, eventually):
    """A process that fails some health checks and comes back as itself has lost nothing."""
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await eventually(lambda: _count(seen.owned(), 1))
    epoch = await seen.epoch()
    engine.healthy = False
    await eventually(lambda: seen.has_state(ReplicaState.UNREACHABLE))
    engine.healthy = True
    await eventually(seen.is_ready)
    assert await seen.epoch() == epoch
    assert await seen.owned() == set(_keys_of(engine, TOKENS[:4]))


async def test_load_is_published(engine, agent, seen, eventually):
    """Heartbeats carry the engine's gauges."""
    engine.running = 3
    await eventually(lambda: _load_is(seen, 3))
    load = await seen.load()
    assert (load.waiting, load.kv_usage, load.prefix_queries, load.prefix_hits) == (2, 0.25, 100, 60)


async def test_redis_that_lost_everything_is_filled_again(
    redis_server, engine, agent, seen, settings, eventually
):
    """Events go on into the mirror while Redis is away, and the whole mirror is published when it is back."""
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await eventually(lambda: _count(seen.owned(), 1))
    redis_server.stop()
    await engine.publisher.publish(engine.stored([2, 3], 1, TOKENS[4:]))
    await engine.publisher.publish(engine.removed(3))
    await eventually(lambda: len(agent.owned_keys()) == 2)
    await asyncio.sleep(0.3)
    redis_server.start()
    await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS[:8]))))
    assert not await agent.verify()


async def test_a_lost_lease_is_opened_again(engine, agent, store, settings, seen, eventually):
    """Redis that forgot one replica gets it back."""
    await engine.publisher.publish(engine.stored([1, 2, 3], None, TOKENS))
    await eventually(lambda: _count(seen.owned(), 3))
    epoch = await seen.epoch()
    await store.delete(settings.keys.lease(REPLICA))
    await eventually(lambda: _later(seen, epoch))
    await eventually(lambda: _same(seen.owned(), set(_keys_of(engine, TOKENS))))


async def test_a_second_agent_fences_the_first(engine, store, settings, seen, eventually):
    """An agent whose replica id was taken stops with an error, and leaves the other one alone."""
    first = Agent(engine.url, store, settings, REPLICA)
    task = asyncio.create_task(first.run())
    await eventually(seen.is_ready)
    other = OwnershipWriter(store, settings.keys, REPLICA, 5.0, 1000)
    await other.open(first.lease, ())
    await other.publish({42}, ())
    with pytest.raises(FencedError, match="another agent"):
        await asyncio.wait_for(task, 5)
    await first.close()
    assert await seen.owned() == {42}


async def test_second_agent_of_a_replica_is_refused(engine, agent, store, settings, seen):
    """It says what to do, and the first one goes on undisturbed."""
    epoch = await seen.epoch()
    with pytest.raises(StartUpError, match=f"another agent publishes replica {REPLICA}: .*--replica-id"):
        await asyncio.wait_for(Agent(engine.url, store, settings, REPLICA).run(), 5)
    assert await seen.epoch() == epoch
    assert await seen.is_ready()


async def test_agent_that_was_killed_is_followed_by_the_next(engine, store, settings, seen, eventually):
    """Its lease still lives, but nobody renews it."""
    killed = asyncio.create_task(Agent(engine.url, store, settings, REPLICA).run())
    await eventually(seen.is_ready)
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    epoch = await seen.epoch()
    assert await store.pttl(settings.keys.lease(REPLICA)) > 0
    async with _running(Agent(engine.url, store, settings, REPLICA)):
        await eventually(lambda: _later(seen, epoch))
        await eventually(seen.is_ready)


async def test_redis_that_keeps_forgetting_is_an_alarm(agent, store, settings, seen, eventually, monkeypatch):
    """Once may happen to any Redis; again and again it makes room for others. The alarm ends by itself."""
    for number in range(1, publication.MANY_LOSSES + 1):
        epoch = await seen.epoch()
        await store.delete(settings.keys.lease(REPLICA))
        await eventually(lambda epoch=epoch: _later(seen, epoch))
        await eventually(seen.is_ready)
        assert agent._publication.keeps_being_lost == (number == publication.MANY_LOSSES)
    await eventually(lambda: seen.has_alarm("maxmemory-policy noeviction"))
    monkeypatch.setattr(publication, "LOSS_SECONDS", 0.0)
    await eventually(lambda: _has_no_alarms(seen))


async def test_an_engine_without_events_is_published_with_an_alarm(engine, store, settings, seen, eventually):
    """Heartbeats go on, ownership is not believed; events that appear later are followed."""
    engine.publishes = False
    async with _running(Agent(engine.url, store, settings, REPLICA)):
        await eventually(lambda: seen.has_state(ReplicaState.READY))
        assert not (await seen.lease()).publishes_events
        assert await seen.has_alarm("no KV events")
        engine.publishes = True
        await eventually(seen.is_ready)
        await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
        await eventually(lambda: _count(seen.owned(), 1))
        assert not await seen.has_alarm("no KV events")


async def test_an_event_endpoint_that_is_silent_raises_an_alarm(engine, agent, seen, eventually):
    """Ownership is believed only while the engine answers for it."""
    engine.publisher.answers = False
    await eventually(lambda: seen.has_alarm("no answer from KV events"))
    assert not (await seen.lease()).publishes_events
    engine.publisher.answers = True
    await eventually(seen.is_ready)
    assert (await seen.lease()).alarms == ()


async def test_an_absent_engine_is_a_starting_replica(store, settings, seen, engine, eventually):
    """A lease exists from the start, and says what is missing."""
    await engine.stop()
    async with _running(Agent(engine.url, store, settings, REPLICA)):
        await eventually(lambda: seen.has_alarm("does not answer"))
        assert await seen.has_state(ReplicaState.STARTING)
        await engine.start()
        await eventually(seen.is_ready)


async def test_the_key_of_the_engine_is_sent(engine, store, settings, seen, eventually):
    """With the wrong key the alarm names the setting; with the right one the engine is found."""
    engine.api_key = "secret"
    async with _running(Agent(engine.url, store, settings, REPLICA)):
        await eventually(lambda: seen.has_alarm("WARMROUTE_ENGINE_API_KEY"))
    keyed = settings.model_copy(update={"engine_api_key": "secret"})
    async with _running(Agent(engine.url, store, keyed, REPLICA)):
        await eventually(seen.is_ready)


async def test_draining_shows_and_closing_deletes(engine, store, settings, seen, eventually):
    """A draining replica keeps its lease until it is closed; then nothing of it is left."""
    agent = Agent(engine.url, store, settings, REPLICA)
    async with _running(agent):
        await eventually(seen.is_ready)
        await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
        await eventually(lambda: _count(seen.owned(), 1))
        await agent.drain()
        assert (await seen.lease()).state == ReplicaState.DRAINING
        await asyncio.sleep(0.2)
        assert (await seen.lease()).state == ReplicaState.DRAINING
    assert await store.keys("*{r1}*") == [b"warmroute:farewell:{r1}"]


async def test_more_blocks_than_the_engine_has_start_over(engine, store, settings, seen, eventually):
    """Events that cannot be true are not believed."""
    engine.capacity = 10
    async with _running(Agent(engine.url, store, settings, REPLICA)):
        await eventually(seen.is_ready)
        for number in range(11):
            await engine.publisher.publish(engine.stored([number], None, [number] * 4))
        await eventually(lambda: seen.has_alarm("more than 10 blocks"))
        assert len(await seen.owned()) <= 10


async def test_the_block_size_of_events_counts(engine, store, settings, seen, eventually):
    """Where metrics and events differ, keys are made of the events' blocks and the lease says so."""
    events = {"block_size": 8}
    async with _running(Agent(engine.url, store, settings, REPLICA)):
        await eventually(seen.is_ready)
        await engine.publisher.publish(engine.stored([1], None, TOKENS[:8], **events))
        await eventually(lambda: _count(seen.owned(), 1))
        assert (await seen.lease()).block_size == 8


async def test_changes_wait_for_a_slow_redis_and_go_out_together(engine, agent, store, seen, eventually):
    """What happened while a call was under way is one batch, with its net effect."""
    await store.execute_command("CLIENT", "PAUSE", "300", "ALL")
    for number in range(50):
        await engine.publisher.publish(engine.stored([number], None, [number] * 4))
    for number in range(40):
        await engine.publisher.publish(engine.removed(number))
    await eventually(lambda: len(agent.owned_keys()) == 10)
    await eventually(lambda: _count(seen.owned(), 10))
    assert agent.sequence <= 5


async def test_one_process_serves_many_engines(engine, store, settings, tiny_model, seen, eventually):
    """`serve_agents` runs an agent per engine, answers for mirrors, and deletes the leases when it stops."""
    second = FakeEngine(tiny_model)
    await second.start()
    ids = [default_replica_id(fake.url) for fake in (engine, second)]
    stop = asyncio.Event()
    task = asyncio.create_task(
        serve_agents(engine_addresses([engine.url, second.url, engine.url + "/"], []), settings, store, stop)
    )
    try:
        for replica in ids:
            await eventually(lambda replica=replica: _ready(seen, replica))
        await second.publisher.publish(second.stored([1], None, TOKENS[:4]))
        url = (await seen.lease(ids[1])).agent_url
        async with aiohttp.ClientSession() as http:
            await eventually(lambda: _mirrored(http, url, _keys_of(second, TOKENS[:4])))
            async with http.get(url + "/verify") as reply:
                assert await reply.json() == {"replica": ids[1], "missing": [], "surplus": []}
            async with http.get(url.rpartition("/replicas")[0] + "/healthz") as reply:
                assert await reply.json() == dict.fromkeys(ids, "ready")
    finally:
        stop.set()
        await asyncio.wait_for(task, 5)
        await second.close()
    assert all(b":farewell:" in key for key in await store.keys("*"))


async def _same(actual, expected):
    return await actual == expected


async def _count(actual, expected):
    return len(await actual) == expected


async def _later(seen, epoch):
    return await seen.epoch() > epoch


async def _load_is(seen, running):
    return (await seen.load()).running == running


async def _ready(seen, replica):
    lease = await seen.lease(replica)
    return lease is not None and lease.publishes_events


async def _mirrored(http, url, keys):
    async with http.get(url + "/mirror") as reply:
        return reply.status == 200 and (await reply.json())["keys"] == [f"{key:016x}" for key in keys]


@pytest.mark.parametrize(
    ("part", "name"), [(Publication, "_write_one"), (Incarnation, "run"), (EngineClient, "discover")]
)
async def test_mistake_in_one_half_of_an_agent_is_survived(
    engine, agent, seen, eventually, monkeypatch, part, name
):
    """It neither ends the process nor leaves anything behind for good: what routers see is true again."""
    monkeypatch.setattr(tasks, "RESTART_SECONDS", 0.01)
    await eventually(seen.is_ready)
    original, failed = getattr(part, name), []

    async def fails_once(self, *arguments):
        if not failed:
            failed.append(self)
            raise ZeroDivisionError
        return await original(self, *arguments)

    monkeypatch.setattr(part, name, fails_once)
    if part is not Publication:
        agent.engine_gone("by a test")
    await eventually(lambda: failed)
    tokens = list(range(8))
    await engine.publisher.publish(engine.stored([1, 2], None, tokens))
    await eventually(seen.is_ready)
    await eventually(lambda: agent.owned_keys() == set(_keys_of(engine, tokens)))
    await eventually(lambda: _equal(seen, agent))


async def _has_no_alarms(seen) -> bool:
    return (await seen.lease()).alarms == ()


async def _equal(seen, agent) -> bool:
    return await seen.owned() == agent.owned_keys()
