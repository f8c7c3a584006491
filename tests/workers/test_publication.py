"""The Redis side of an agent: whatever Redis loses is noticed and published again, and nothing else is."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.process.tasks import cancel_and_wait
from cluster.protocol.block_keys import pack_keys
from cluster.protocol.wire import Lease, Load, ReplicaState
from workers.agent.mirror import Change
from workers.agent.publication import Pending, Publication

LEASE = Lease(replica="r", url="http://r", state=ReplicaState.READY, model="m", block_size=16)


class Agent:
    """A mirror and its publication."""

    def __init__(self, store, settings):
        self.mirror: set[int] = set()
        self.publication = Publication(store, settings, "r", lambda: self.mirror, Load)

    def change(self, stored=(), removed=()):
        """The engine stores and removes blocks."""
        stored, removed = frozenset(stored) - self.mirror, frozenset(removed) & self.mirror
        self.mirror = (self.mirror - removed) | stored
        self.publication.change(Change(stored, removed))

    def clear(self):
        """The engine drops all."""
        self.mirror = set()
        self.publication.change(Change(cleared=True))


@pytest.fixture
def settings(settings):
    """No lease ends while a test keeps Redis from answering."""
    return settings.model_copy(update={"lease_seconds": 20.0})


@pytest.fixture
async def agent(store, settings, eventually):
    """An agent with 12,000 blocks in Redis, more than one batch."""
    agent = Agent(store, settings)
    agent.mirror = set(range(12_000))
    agent.publication.begin(LEASE)
    task = asyncio.create_task(agent.publication.run())
    await eventually(lambda: agent.publication.epoch and agent.publication.is_settled)
    yield agent
    assert not task.done(), task
    await cancel_and_wait(task)


@pytest.mark.integration
@pytest.mark.parametrize("damage", ["set deleted", "some members evicted", "last batches lost"])
async def test_silent_damage_is_repaired_by_a_heartbeat(agent, store, settings, eventually, damage):
    """Nothing is published meanwhile, and the lease lives: the next heartbeat notices."""
    agent.change(stored=[1_000_000])
    assert await agent.publication.settle()
    epoch, heartbeat = agent.publication.epoch, settings.heartbeat_seconds
    owned, lease = settings.keys.owned("r", epoch), settings.keys.lease("r")
    if damage == "set deleted":
        await store.delete(owned)
    elif damage == "some members evicted":
        await store.srem(owned, pack_keys([5]), pack_keys([6]))
    else:
        await store.srem(owned, pack_keys([1_000_000]))
        await store.hincrby(lease, "sequence", -1)
    await eventually(lambda: agent.publication.epoch > epoch, 5 * heartbeat)
    assert not await agent.publication.verify()


@pytest.mark.integration
async def test_an_unharmed_replica_keeps_its_epoch(agent, store, settings):
    """However blocks come and go, heartbeats find nothing to repair."""
    epoch, randomness = agent.publication.epoch, random.Random(7)
    for number in range(60):
        agent.change(stored=randomness.sample(range(3000), 300), removed=randomness.sample(range(3000), 200))
        if number % 20 == 10:
            agent.clear()
        await asyncio.sleep(settings.heartbeat_seconds / 7)
    assert await agent.publication.settle()
    assert agent.publication.epoch == epoch
    assert not await agent.publication.verify()


@pytest.mark.integration
async def test_batches_that_redis_does_not_answer_keep_the_epoch(agent, store, settings, eventually):
    """Unknown is not lost: when Redis answers again, the batch has arrived or is repeated."""
    epoch = agent.publication.epoch
    for number in range(3):
        await store.execute_command("CLIENT", "PAUSE", "1200", "ALL")
        agent.change(stored=[2_000_000 + number], removed=[number])
        await eventually(lambda: agent.publication.trouble)
        await eventually(lambda: not agent.publication.trouble)
        assert await agent.publication.settle()
    assert not await agent.publication.verify()
    assert agent.publication.epoch == epoch


@pytest.mark.integration
async def test_a_redis_that_comes_back_empty_is_filled_again(agent, redis_server, eventually):
    """Everything is published again, also what changed while it was away."""
    redis_server.stop()
    agent.change(stored=[3_000_000], removed=[1])
    await eventually(lambda: agent.publication.trouble)
    agent.change(stored=[1], removed=[2])
    epoch = agent.publication.epoch
    redis_server.start()
    await eventually(lambda: agent.publication.epoch > epoch and agent.publication.is_settled)
    assert not await agent.publication.verify()


@given(
    st.sets(st.integers(0, 9)),
    st.lists(
        st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)), st.booleans(), st.integers(0, 4))
    ),
)
def test_what_is_taken_to_publish_is_a_net_effect(held, changes):
    """Stored keys are new to Redis and removed ones are there, however changes merge and are cut.

    So the writer knows how many keys Redis has.
    """
    pending, mirror, redis = Pending(), set(held), set(held)

    def publish(limit):
        change = pending.take(limit)
        assert len(change.stored) + len(change.removed) <= limit
        nonlocal redis
        redis = set() if change.cleared else redis
        assert change.removed <= redis
        redis -= change.removed
        assert not change.stored & redis
        redis |= change.stored

    for stored, removed, cleared, limit in changes:
        mirror = set() if cleared else mirror
        removed = frozenset() if cleared else frozenset(removed & mirror)
        stored = frozenset(stored - mirror)
        mirror = (mirror - removed) | stored
        pending.merge(Change(stored, removed, cleared))
        if limit:
            publish(limit)
    while pending:
        publish(3)
    assert redis == mirror
