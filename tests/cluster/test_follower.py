"""The read side: whatever happens to messages, logs, epochs and Redis, the router's view catches up."""

import asyncio
import random
import signal
import time
from contextlib import asynccontextmanager

import msgspec
import pytest

from cluster.errors import LeaseLostError
from cluster.fleet.fleet import Fleet
from cluster.process.tasks import cancel_and_wait
from cluster.protocol.block_keys import pack_keys, unpack_keys
from cluster.protocol.wire import Lease, Load, Membership, ReplicaState
from cluster.store.ownership import OwnershipWriter
from cluster.store.store import connect
from cluster.sync import follower as follower_module
from cluster.sync.follower import Follower
from tests.cluster.quiet_keys import QuietKeys

pytestmark = pytest.mark.integration

NEVER = 3600.0


def lease(replica, **changes):
    """A ready replica."""
    values = {"url": f"http://{replica}", "state": ReplicaState.READY, "model": "m", "block_size": 16}
    return Lease(replica=replica, publishes_events=True, **{**values, **changes})


def writer_of(redis, keys, replica="a", log_length=1000, ttl=30.0):
    """A writer that has not opened yet."""
    return OwnershipWriter(redis, keys, replica, ttl, log_length)


@asynccontextmanager
async def following(url, keys, poll_seconds=0.05, redis_seconds=2.0, **options):
    """A follower with a fleet of its own, as a router has."""
    client = connect(url, redis_seconds)
    fleet = Fleet()
    follower = Follower(client, keys, fleet, poll_seconds, **options)
    task = asyncio.create_task(follower.run())
    try:
        async with asyncio.timeout(10):
            await follower.synchronised.wait()
        yield fleet, follower
        assert not task.done(), task
        fleet.check_integrity()
    finally:
        await cancel_and_wait(task)
        await client.aclose()


def held(fleet, replica="a"):
    """What the follower believes a replica to hold; None for an unknown replica."""
    known = fleet.replicas.get(replica)
    return None if known is None else set(fleet.index.owned(known.slot))


async def test_changes_arrive_as_they_are_published(redis, keys, shared_redis, eventually):
    """Lease, blocks, evictions and clears go round without any polling."""
    writer = writer_of(redis, keys)
    async with following(shared_redis.url, keys, poll_seconds=NEVER) as (fleet, follower):
        await writer.open(lease("a"), [1, 2, 3])
        await eventually(lambda: held(fleet) == {1, 2, 3})
        await writer.publish([4], [1])
        await eventually(lambda: held(fleet) == {2, 3, 4})
        await writer.publish([9], (), cleared=True)
        await eventually(lambda: held(fleet) == {9})
        assert follower.sequence("a") == writer.sequence
        assert fleet.replicas["a"].epoch == writer.epoch
        assert follower.resynchronisations == 0


async def test_changed_lease_arrives_at_once_and_load_with_the_next_poll(
    redis, keys, shared_redis, eventually
):
    """Draining is announced; gauges may wait for a heartbeat."""
    writer = writer_of(redis, keys)
    await writer.open(lease("a"), ())
    async with following(shared_redis.url, keys, poll_seconds=NEVER) as (fleet, _):
        await writer.heartbeat(lease("a", state=ReplicaState.DRAINING), Load(running=5), changed=True)
        await eventually(lambda: fleet.replicas["a"].lease.state is ReplicaState.DRAINING)
    async with following(shared_redis.url, keys) as (fleet, _):
        await writer.heartbeat(lease("a"), Load(running=6))
        await eventually(lambda: fleet.replicas["a"].load.running == 6)


async def test_closed_replica_is_gone_at_once(redis, keys, shared_redis, eventually):
    """A lease given up on purpose needs no grace time."""
    writer = writer_of(redis, keys)
    await writer.open(lease("a"), [1])
    async with following(shared_redis.url, keys, poll_seconds=NEVER) as (fleet, follower):
        assert held(fleet) == {1}
        await writer.close()
        await eventually(lambda: not fleet.replicas)
        assert follower.sequence("a") == -1


async def test_late_follower_replays_a_complete_log(redis, keys, shared_redis):
    """While the log reaches back to the first batch, it alone is enough."""
    writer = writer_of(redis, keys)
    await writer.open(lease("a"), range(6000))
    await writer.publish([7000], range(100))
    async with following(shared_redis.url, keys, poll_seconds=NEVER) as (fleet, follower):
        assert held(fleet) == {*range(100, 6000), 7000}
        assert follower.resynchronisations == 0


async def test_late_follower_reads_the_set_when_the_log_was_trimmed(redis, keys, shared_redis):
    """Of a long life only the newest batches are logged: the set holds the rest."""
    writer = writer_of(redis, keys, log_length=10)
    await writer.open(lease("a"), range(5000))
    for number in range(250):
        await writer.publish([10_000 + number], [number])
    async with following(shared_redis.url, keys, poll_seconds=NEVER) as (fleet, follower):
        assert held(fleet) == {*range(250, 5000), *range(10_000, 10_250)}
        assert follower.sequence("a") == writer.sequence
        assert follower.resynchronisations == 1


async def test_late_follower_catches_up_with_a_writer_that_goes_on_writing(
    redis, keys, shared_redis, eventually
):
    """Batches that arrive during the scan are neither lost nor applied twice."""
    writer = writer_of(redis, keys, log_length=100)
    truth = set(range(20_000))
    await writer.open(lease("a"), truth)
    for number in range(250):
        await writer.publish([20_000 + number], [number])
    truth = set(range(250, 20_250))

    async def go_on():
        for number in range(200):
            stored, removed = {30_000 + number % 50}, {250 + number, 30_000 + (number + 25) % 50}
            await writer.publish(stored, removed - stored)
            truth.difference_update(removed)
            truth.update(stored)

    async with asyncio.TaskGroup() as group:
        group.create_task(go_on())
        async with following(shared_redis.url, keys) as (fleet, _):
            await eventually(lambda: writer.sequence == 454 and held(fleet) == truth)


async def test_message_lost_before_another_is_found_by_its_number(redis, keys, shared_redis, eventually):
    """A batch that does not follow the last one makes the follower read the log."""
    writer = writer_of(redis, keys)
    await writer.open(lease("a"), [1])
    async with following(shared_redis.url, keys, poll_seconds=NEVER) as (fleet, follower):
        writer._keys = QuietKeys(keys.prefix)
        await writer.publish([2], ())
        await writer.publish([3], [1])
        writer._keys = keys
        await writer.publish([4], ())
        await eventually(lambda: held(fleet) == {2, 3, 4})
        assert follower.resynchronisations == 0


async def test_message_lost_as_the_last_one_is_found_by_polling(redis, keys, shared_redis, eventually):
    """Without any further message the sequence in the lease tells."""
    writer = writer_of(redis, keys)
    await writer.open(lease("a"), [1])
    async with following(shared_redis.url, keys) as (fleet, _):
        writer._keys = QuietKeys(keys.prefix)
        await writer.publish([2], [1])
        await eventually(lambda: held(fleet) == {2})


async def test_gap_longer_than_the_log_reads_the_set(redis, keys, shared_redis, eventually):
    """When the log no longer reaches back, the replica's blocks are read anew."""
    writer = writer_of(redis, keys, log_length=10)
    await writer.open(lease("a"), [1])
    async with following(shared_redis.url, keys, poll_seconds=NEVER) as (fleet, follower):
        writer._keys = QuietKeys(keys.prefix)
        for number in range(300):
            await writer.publish([100 + number], ())
        writer._keys = keys
        await writer.publish([2], [1])
        await eventually(lambda: held(fleet) == {2, *range(100, 400)})
        assert follower.resynchronisations == 1


async def test_cut_connection_loses_nothing(redis, keys, shared_redis, eventually):
    """A follower whose subscription was killed comes back and catches up."""
    writer = writer_of(redis, keys)
    await writer.open(lease("a"), [1])
    async with following(shared_redis.url, keys) as (fleet, _):
        for number in range(3):
            await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await writer.publish([number + 2], [number + 1])
            await eventually(lambda number=number: held(fleet) == {number + 2})
        assert fleet.store_reachable


@pytest.mark.parametrize("announced", [True, False])
async def test_new_epoch_kills_what_the_old_one_owned(redis, keys, shared_redis, eventually, announced):
    """After a restart a replica owns what it announces, whether the follower hears of it or has to look."""
    writer = writer_of(redis, keys if announced else QuietKeys(keys.prefix))
    await writer.open(lease("a"), [1, 2])
    poll = NEVER if announced else 0.05
    async with following(shared_redis.url, keys, poll_seconds=poll) as (fleet, _):
        assert held(fleet) == {1, 2}
        await writer.open(lease("a"), [3])
        await eventually(lambda: held(fleet) == {3})
        assert fleet.replicas["a"].epoch == writer.epoch


async def test_message_of_an_old_epoch_is_ignored(redis, keys, shared_redis, eventually):
    """What an old incarnation still had on its way changes nothing."""
    writer = writer_of(redis, keys)
    await writer.open(lease("a"), [1])
    late = follower_module.Batch("a", writer.epoch - 1, 2, pack_keys([5]))
    async with following(shared_redis.url, keys, poll_seconds=NEVER) as (fleet, _):
        await redis.publish(keys.batches, follower_module.msgspec.msgpack.encode(late))
        await writer.publish([2], ())
        await eventually(lambda: held(fleet) == {1, 2})


@pytest.mark.parametrize("channel", ["batches", "memberships"])
async def test_message_that_cannot_be_read_does_not_stop_the_follower(
    redis, keys, shared_redis, eventually, channel
):
    """Rubbish on a channel, or a newer version's message, is passed over."""
    writer = writer_of(redis, keys)
    await writer.open(lease("a"), [1])
    async with following(shared_redis.url, keys) as (fleet, _):
        await redis.publish(getattr(keys, channel), b"\xc1 rubbish")
        await writer.publish([2], ())
        await eventually(lambda: held(fleet) == {1, 2})


async def test_lease_that_cannot_be_read_does_not_hide_the_others(redis, keys, shared_redis, eventually):
    """One replica with a lease from another version leaves the rest of the fleet alone."""
    await writer_of(redis, keys, "bad").open(lease("bad"), ())
    await redis.hset(keys.lease("bad"), "lease", b'{"replica":"bad","state":"dreaming"}')
    await writer_of(redis, keys, "good").open(lease("good"), [1])
    async with following(shared_redis.url, keys) as (fleet, _):
        await eventually(lambda: held(fleet, "good") == {1})
        assert set(fleet.replicas) == {"good"}


async def test_silent_replica_is_dismissed_when_its_lease_is_over(
    redis, keys, shared_redis, eventually, monkeypatch
):
    """A dead agent's replica is forgotten by routers and in the list of members."""
    monkeypatch.setattr(follower_module, "MISSING_LEASE_SECONDS", 0.1)
    await writer_of(redis, keys, ttl=0.2).open(lease("a"), [1])
    async with following(shared_redis.url, keys) as (fleet, _):
        assert held(fleet) == {1}
        await eventually(lambda: not fleet.replicas)
        assert len(fleet.index) == 0
        await eventually(lambda: not fleet.models)
    assert await redis.zcard(keys.members) == 0


async def test_announcement_without_a_lease_is_no_farewell(redis, keys, shared_redis, eventually):
    """Redis lost its data just after an agent announced something: its replica serves on."""
    writer = writer_of(redis, keys)
    await writer.open(lease("a"), [1])
    async with following(shared_redis.url, keys, poll_seconds=NEVER) as (fleet, follower):
        await redis.flushall()
        heard = asyncio.Event()
        read_lease = follower._read_lease

        async def noted(*arguments):
            await read_lease(*arguments)
            heard.set()

        follower._read_lease = noted
        await redis.publish(keys.memberships, msgspec.msgpack.encode(Membership("a")))
        await heard.wait()
        assert held(fleet) == {1}


async def test_redis_that_lost_everything(keys, own_redis, eventually, monkeypatch):
    """Replicas are kept for the grace time; an agent that publishes again within it is followed again."""
    monkeypatch.setattr(follower_module, "MISSING_LEASE_SECONDS", 1.0)
    client = connect(own_redis.url)
    living, dead = writer_of(client, keys, "living"), writer_of(client, keys, "dead")
    await living.open(lease("living"), [1, 2])
    await dead.open(lease("dead"), [3])
    async with following(own_redis.url, keys) as (fleet, _):
        old_epoch = fleet.replicas["living"].epoch
        own_redis.stop()
        await eventually(lambda: not fleet.store_reachable)
        own_redis.start()
        with pytest.raises(LeaseLostError):
            await living.heartbeat(lease("living"), Load())
        await eventually(lambda: fleet.store_reachable)
        assert held(fleet, "living") == {1, 2}
        assert held(fleet, "dead") == {3}
        await living.open(lease("living"), [1, 4])
        await eventually(lambda: held(fleet, "living") == {1, 4})
        assert fleet.replicas["living"].epoch > old_epoch
        await eventually(lambda: set(fleet.replicas) == {"living"})
    await client.aclose()


async def test_redis_away_for_long_does_not_use_up_the_grace_time(keys, own_redis, eventually, monkeypatch):
    """The grace time counts while Redis answers: a lease seen missing long ago may be back any moment."""
    monkeypatch.setattr(follower_module, "MISSING_LEASE_SECONDS", 1.0)
    client = connect(own_redis.url)
    await writer_of(client, keys).open(lease("a"), [1])
    async with following(own_redis.url, keys) as (fleet, follower):
        await client.flushall()
        await eventually(lambda: "a" in follower._missing_since)
        own_redis.stop()
        await eventually(lambda: not fleet.store_reachable)
        await asyncio.sleep(1.2)
        own_redis.start()
        await eventually(lambda: fleet.store_reachable)
        await asyncio.sleep(0.2)
        assert held(fleet) == {1}
    await client.aclose()


async def test_without_redis_the_last_state_goes_on_serving(keys, own_redis, eventually):
    """Redis stopped: it is said, replicas and blocks stay, and afterwards changes arrive again."""
    client = connect(own_redis.url)
    await writer_of(client, keys).open(lease("a"), [1])
    async with following(own_redis.url, keys) as (fleet, _):
        assert fleet.store_reachable
        own_redis.stop()
        await eventually(lambda: not fleet.store_reachable, seconds=2)
        assert held(fleet) == {1}
        assert fleet.models["m"].ready
        own_redis.start()
        await writer_of(client, keys).open(lease("a"), [2])
        await eventually(lambda: held(fleet) == {2})
        assert fleet.store_reachable
    await client.aclose()


async def test_hanging_redis_is_noticed(keys, own_redis, eventually):
    """A Redis that accepts and never answers is as good as away, within a few time limits."""
    client = connect(own_redis.url)
    await writer_of(client, keys).open(lease("a"), [1])
    async with following(own_redis.url, keys, redis_seconds=0.3) as (fleet, _):
        own_redis.process.send_signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            await eventually(lambda: not fleet.store_reachable, seconds=2)
            assert time.monotonic() - started < 2
            assert held(fleet) == {1}
        finally:
            own_redis.process.send_signal(signal.SIGCONT)
        await eventually(lambda: fleet.store_reachable)
    await client.aclose()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_random_histories_end_with_everybody_agreeing(redis, keys, shared_redis, eventually, seed):
    """Three agents publish, evict, clear, restart, leave; messages get lost: follower == Redis == model."""
    chance = random.Random(seed)
    loud, quiet = keys, QuietKeys(keys.prefix)
    writers = {name: writer_of(redis, keys, name, log_length=chance.choice([5, 1000])) for name in "abc"}
    model = dict.fromkeys(writers)
    async with following(shared_redis.url, keys) as (fleet, follower):
        for _ in range(250):
            name = chance.choice("abc")
            writer = writers[name]
            writer._keys = chance.choice([loud, loud, quiet])
            some = {chance.randrange(40) for _ in range(chance.randrange(6))}
            action = chance.random()
            if model[name] is None or action < 0.04:
                await writer.open(lease(name), some)
                model[name] = some
            elif action < 0.06:
                writer._keys = loud
                await writer.close()
                model[name] = None
            elif action < 0.1:
                await writer.publish(some, (), cleared=True)
                model[name] = some
            elif action < 0.55:
                await writer.publish(some, ())
                model[name] = model[name] | some
            else:
                await writer.publish((), some)
                model[name] = model[name] - some
        await eventually(
            lambda: all(
                follower.sequence(name) == (-1 if blocks is None else writers[name].sequence)
                for name, blocks in model.items()
            )
        )
        assert {name: held(fleet, name) for name in writers} == model
        for name, blocks in model.items():
            members = await redis.smembers(keys.owned(name, writers[name].epoch))
            assert set(unpack_keys(b"".join(members))) == (blocks or set())


class Witness:
    """Says what a test wants of engines."""

    def __init__(self, says):
        self.says = says
        self.asked = set()

    def __call__(self, replica):
        self.asked.add(replica.lease.replica)
        return self.says


@pytest.mark.parametrize("says", [True, None])
async def test_replica_without_a_lease_stays_while_its_engine_may_live(
    redis, keys, shared_redis, eventually, monkeypatch, says
):
    """Its blocks stay known, it is marked, and the mark goes with the next lease; when the engine is known to
    be dead it is dismissed."""
    monkeypatch.setattr(follower_module, "MISSING_LEASE_SECONDS", 0.1)
    witness = Witness(says)
    await writer_of(redis, keys).open(lease("a"), [1])
    async with following(shared_redis.url, keys, engine_lives=witness) as (fleet, _):
        assert not witness.asked
        await redis.flushall()
        await eventually(lambda: witness.asked == {"a"})
        await asyncio.sleep(0.3)
        assert held(fleet) == {1}
        assert fleet.replicas["a"].lease_missing_since is not None
        writer = writer_of(redis, keys)
        await writer.open(lease("a"), [2])
        await eventually(lambda: held(fleet) == {2})
        assert fleet.replicas["a"].lease_missing_since is None
        await redis.flushall()
        witness.says = False
        await eventually(lambda: not fleet.replicas)


async def test_farewell_that_was_not_heard_is_one_all_the_same(redis, keys, shared_redis, eventually):
    """An agent that ended on purpose leaves its engine alive: routers find in Redis that it said good-bye."""
    writer = writer_of(redis, keys)
    await writer.open(lease("a"), [1])
    async with following(shared_redis.url, keys, engine_lives=Witness(True)) as (fleet, _):
        writer._keys = QuietKeys(keys.prefix)
        await writer.close()
        await eventually(lambda: not fleet.replicas)
        again = writer_of(redis, keys)
        await again.open(lease("a"), [1])
        await eventually(lambda: held(fleet) == {1})
        await redis.delete(keys.lease("a"))
        await asyncio.sleep(0.3)
        assert held(fleet) == {1}
        await again.close()
        await eventually(lambda: not fleet.replicas)


async def test_engine_that_got_another_agent_is_one_replica(redis, keys, shared_redis, eventually):
    """An agent that was started again under another id speaks for the same engine."""
    await writer_of(redis, keys).open(lease("a"), [1])
    async with following(shared_redis.url, keys, engine_lives=Witness(True)) as (fleet, _):
        await redis.delete(keys.lease("a"))
        await writer_of(redis, keys, "b").open(lease("b", url="http://a"), [2])
        await eventually(lambda: set(fleet.replicas) == {"b"})


@pytest.mark.parametrize("command", ["zrem", "srem"])
async def test_follower_goes_on_where_it_may_not_tidy_up(
    redis, keys, shared_redis, eventually, monkeypatch, command
):
    """Striking the dead off a list is refused by a full or read-only Redis: that stops nothing."""
    monkeypatch.setattr(follower_module, "MISSING_LEASE_SECONDS", 0.1)
    await redis.sadd(keys.routers, "dead router")
    await writer_of(redis, keys, ttl=0.2).open(lease("a"), [1])
    await redis.execute_command("ACL", "SETUSER", "default", f"-{command}")
    try:
        async with following(shared_redis.url, keys) as (fleet, _):
            await eventually(lambda: not fleet.replicas)
            await writer_of(redis, keys, "b").open(lease("b"), [1])
            await eventually(lambda: held(fleet, "b") == {1})
            assert fleet.store_reachable
    finally:
        await redis.execute_command("ACL", "SETUSER", "default", "+@all")
