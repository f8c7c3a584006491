"""The write side: one writer per replica, fenced by epoch, ordered by sequence, on a real Redis."""

import socket
import time

import msgspec
import pytest

from cluster.errors import FencedError, LeaseLostError, SequenceGapError, StoreUnavailableError
from cluster.protocol.block_keys import pack_keys, unpack_keys
from cluster.protocol.wire import Batch, Lease, Load, Membership, ReplicaState
from cluster.store.ownership import FAREWELL_SECONDS, OwnershipWriter
from cluster.store.store import connect, open_pubsub

pytestmark = pytest.mark.integration

LEASE = Lease(replica="r", url="http://r", state=ReplicaState.READY, model="m", block_size=16)


@pytest.fixture
def writer_of(redis, keys):
    """Makes writers for one replica."""

    def make(lease_ttl=10.0, log_length=1000):
        return OwnershipWriter(redis, keys, "r", lease_ttl, log_length)

    return make


@pytest.fixture
async def writer(writer_of):
    """A writer in its first epoch, owning nothing."""
    writer = writer_of()
    await writer.open(LEASE, ())
    return writer


async def owned(redis, keys, epoch):
    """What Redis says an incarnation owns."""
    return set(unpack_keys(b"".join(await redis.smembers(keys.owned("r", epoch)))))


async def sequence(redis, keys):
    """Number of the last batch that Redis has taken."""
    return int(await redis.hget(keys.lease("r"), "sequence"))


async def test_open_publishes_the_lease_and_all_blocks(redis, keys, writer_of):
    """A new epoch holds everything at once, however much it is, and is announced as a member."""
    writer = writer_of()
    await writer.open(LEASE, set(range(12_001)))
    assert await owned(redis, keys, writer.epoch) == set(range(12_001))
    assert msgspec.json.decode(await redis.hget(keys.lease("r"), "lease"), type=Lease) == LEASE
    assert await redis.zrange(keys.members, 0, -1) == [b"r"]
    assert await sequence(redis, keys) == writer.sequence == 3


async def test_epochs_grow(redis, keys, writer_of):
    """Every opening has a larger epoch, also within one millisecond and after Redis lost everything."""
    writer, epochs = writer_of(), []
    for number in range(20):
        if number == 10:
            await redis.flushall()
        await writer.open(LEASE, ())
        epochs.append(writer.epoch)
    assert epochs[:10] == sorted(set(epochs[:10]))
    assert epochs[10:] == sorted(set(epochs[10:]))
    assert abs(epochs[-1] / 1000 - time.time()) < 60


async def test_epochs_grow_although_the_clock_of_redis_goes_back(redis, keys, writer_of):
    """A new primary whose clock is behind, and which never got the lease, still gives a later epoch."""
    writer = writer_of()
    await writer.open(LEASE, ())
    writer.epoch = later = writer.epoch + 3_600_000  # as from a Redis whose clock was an hour ahead
    await redis.flushall()
    await writer.open(LEASE, ())
    assert writer.epoch == later + 1


async def test_publish_clears_then_removes_then_stores(redis, keys, writer):
    """One batch may do all three; what is in all parts is held afterwards."""
    await writer.publish(range(3500), ())
    assert await owned(redis, keys, writer.epoch) == set(range(3500))
    await writer.publish([7000, 2**64 - 1], range(1, 3500))
    assert await owned(redis, keys, writer.epoch) == {0, 7000, 2**64 - 1}
    await writer.publish([5], [5, 6], cleared=True)
    assert await owned(redis, keys, writer.epoch) == {5}


async def test_log_holds_every_batch_under_its_number(redis, keys, writer):
    """The stream's entry ids are sequence numbers, its entries the published batches."""
    await writer.publish([1], ())
    await writer.publish([2], [1])
    entries = await redis.xrange(keys.log("r", writer.epoch))
    assert [entry_id for entry_id, _ in entries] == [b"1-0", b"2-0"]
    batch = msgspec.msgpack.decode(entries[1][1][b"batch"], type=Batch)
    assert batch == Batch("r", writer.epoch, 2, pack_keys([2]), pack_keys([1]))


async def test_repeated_batch_changes_nothing(redis, keys, writer):
    """A batch sent twice is applied, logged and announced once."""
    pubsub = redis.pubsub()
    await pubsub.subscribe(keys.batches)
    await writer.publish([1, 2], ())
    await writer.repeat()
    await writer.publish((), [1])
    await writer.repeat()
    assert await owned(redis, keys, writer.epoch) == {2}
    assert await redis.xlen(keys.log("r", writer.epoch)) == 2
    announced = []
    while message := await pubsub.get_message(ignore_subscribe_messages=False, timeout=0.2):
        announced.append(message["type"])
    assert announced == ["subscribe", "message", "message"]
    await pubsub.aclose()


async def test_gap_is_refused(redis, keys, writer):
    """A batch whose predecessor Redis does not have is an error and leaves no trace."""
    await writer.publish([1], ())
    await redis.hset(keys.lease("r"), "sequence", 0)  # as a failover may leave it
    with pytest.raises(SequenceGapError):
        await writer.publish([2], ())
    assert await owned(redis, keys, writer.epoch) == {1}
    assert await sequence(redis, keys) == 0
    assert await redis.xlen(keys.log("r", writer.epoch)) == 1


async def test_old_incarnation_is_refused(redis, keys, writer_of):
    """After a newer one has opened, nothing the old one writes has any effect."""
    old, new = writer_of(), writer_of()
    await old.open(LEASE, [1, 2])
    await new.open(LEASE, [3])
    before = await redis.hgetall(keys.lease("r"))
    with pytest.raises(FencedError):
        await old.publish([4], ())
    with pytest.raises(FencedError):
        await old.heartbeat(LEASE, Load(running=9))
    await old.close()
    assert await redis.hgetall(keys.lease("r")) == before
    assert await owned(redis, keys, new.epoch) == {3}
    assert await owned(redis, keys, old.epoch) == set()
    assert await redis.zrange(keys.members, 0, -1) == [b"r"]


async def test_new_epoch_removes_what_the_old_one_owned(redis, keys, writer_of):
    """No key of the old epoch is left behind, and it never comes back."""
    writer = writer_of()
    await writer.open(LEASE, [1, 2])
    old = writer.epoch
    await writer.open(LEASE, ())
    assert await redis.exists(keys.owned("r", old), keys.log("r", old)) == 0
    assert await sequence(redis, keys) == 0


async def test_expired_lease_is_reported(redis, keys, writer):
    """A writer whose lease is gone learns it with its next write, and writes nothing."""
    await redis.flushall()
    for write in (writer.publish([1], ()), writer.heartbeat(LEASE, Load())):
        with pytest.raises(LeaseLostError):
            await write
    assert await redis.exists(keys.owned("r", writer.epoch), keys.log("r", writer.epoch)) == 0


async def test_everything_expires_with_the_lease(redis, keys, writer_of):
    """A replica whose agent is silent leaves nothing that could be believed."""
    writer = writer_of(lease_ttl=0.2)
    await writer.open(LEASE, [1])
    await writer.heartbeat(LEASE, Load(running=1))
    names = await redis.keys("*")
    assert len(names) == 5
    assert {name for name in names if await redis.pttl(name) < 0} == {keys.members.encode()}
    deadline = time.monotonic() + 3
    while await redis.keys("*") != [keys.members.encode()]:
        assert time.monotonic() < deadline


async def test_heartbeat_renews_lease_blocks_and_log_together(redis, keys, writer_of):
    """Nothing that belongs to a living replica expires before its lease."""
    writer = writer_of(lease_ttl=30.0)
    await writer.open(LEASE, [1])
    for name in await redis.keys("*{r}*"):
        await redis.pexpire(name, 1000)
    await writer.heartbeat(LEASE, Load(running=2))
    assert all([await redis.pttl(name) > 20_000 for name in await redis.keys("*{r}*")])
    assert msgspec.msgpack.decode(await redis.get(keys.load("r")), type=Load).running == 2


async def test_heartbeat_notices_that_redis_lost_batches(redis, keys, writer):
    """A failover can lose what was acknowledged: the lease lives, but is not renewed any more."""
    await writer.publish([1], ())
    await writer.publish([2], [1])
    await redis.hset(keys.lease("r"), "sequence", 1)
    await redis.pexpire(keys.lease("r"), 5000)
    with pytest.raises(SequenceGapError):
        await writer.heartbeat(LEASE, Load())
    assert await redis.pttl(keys.lease("r")) <= 5000
    assert await redis.exists(keys.load("r")) == 0


@pytest.mark.parametrize("damage", ["deleted", "one removed", "one added"])
async def test_heartbeat_notices_damaged_blocks(redis, keys, writer, damage):
    """The set must have as many members as were published, at whatever number it stands."""
    await writer.publish([1, 2, 3], ())
    await writer.publish([4], [1, 2])
    await writer.heartbeat(LEASE, Load())
    name = keys.owned("r", writer.epoch)
    if damage == "deleted":
        await redis.delete(name)
    elif damage == "one removed":
        await redis.srem(name, pack_keys([4]))
    else:
        await redis.sadd(name, pack_keys([9]))
    with pytest.raises(SequenceGapError):
        await writer.heartbeat(LEASE, Load())


async def test_heartbeats_count_what_was_published(writer):
    """Stored, removed and cleared blocks, and those of a new epoch, add up to what Redis has."""
    await writer.heartbeat(LEASE, Load())
    await writer.publish(range(3000), ())
    await writer.heartbeat(LEASE, Load())
    await writer.publish([5000], range(10, 3000))
    await writer.heartbeat(LEASE, Load())
    await writer.publish([1, 2], (), cleared=True)
    await writer.heartbeat(LEASE, Load())
    await writer.publish((), [1, 2])
    await writer.heartbeat(LEASE, Load())
    await writer.open(LEASE, range(6000))
    await writer.heartbeat(LEASE, Load())


@pytest.mark.parametrize("arrived", [True, False])
async def test_heartbeat_between_a_batch_and_its_answer(redis, keys, writer, monkeypatch, arrived):
    """While nobody knows whether the last batch arrived, Redis may be before or after it, not elsewhere."""
    await writer.publish([1], ())
    publish = writer._publish

    async def lose_answer(**arguments):
        if arrived:
            await publish(**arguments)
        raise StoreUnavailableError("no answer")

    monkeypatch.setattr(writer, "_publish", lose_answer)
    with pytest.raises(StoreUnavailableError):
        await writer.publish([2, 3], [1])
    monkeypatch.undo()
    assert not writer.is_confirmed
    await writer.heartbeat(LEASE, Load())
    await redis.sadd(keys.owned("r", writer.epoch), b"surplus!")
    with pytest.raises(SequenceGapError):
        await writer.heartbeat(LEASE, Load())
    await redis.srem(keys.owned("r", writer.epoch), b"surplus!")
    await writer.repeat()
    assert writer.is_confirmed
    await writer.heartbeat(LEASE, Load())
    assert await owned(redis, keys, writer.epoch) == {2, 3}


async def test_heartbeat_joins_the_list_of_members_again(redis, keys, writer):
    """In a cluster that list lies elsewhere, and can be lost while the lease lives."""
    await redis.delete(keys.members)
    await writer.heartbeat(LEASE, Load())
    assert await redis.zrange(keys.members, 0, -1) == [b"r"]


async def test_leases_are_announced_when_they_change(redis, keys, writer_of):
    """Opening, a heartbeat that says something new and closing tell routers; other heartbeats do not."""
    writer = writer_of()
    async with open_pubsub(redis) as pubsub:
        await pubsub.subscribe(keys.memberships)
        assert (await pubsub.get_message(timeout=1.0))["type"] == "subscribe"
        for write, announced in (
            (writer.open(LEASE, ()), Membership("r")),
            (writer.heartbeat(LEASE, Load()), None),
            (writer.heartbeat(LEASE, Load(), changed=True), Membership("r")),
            (writer.close(), Membership("r", left=True)),
        ):
            await write
            message = await pubsub.get_message(timeout=0.1)
            assert (message and msgspec.msgpack.decode(message["data"], type=Membership)) == announced


async def test_close_leaves_nothing(redis, writer):
    """A replica that ends on purpose is gone at once."""
    await writer.publish([1], ())
    await writer.heartbeat(LEASE, Load())
    await writer.close()
    assert await redis.keys("*") == [b"test:farewell:{r}"]
    assert 0 < await redis.ttl("test:farewell:{r}") <= FAREWELL_SECONDS


async def test_log_is_trimmed(redis, keys, writer_of):
    """The log stays near its bound however long an incarnation lives."""
    writer = writer_of(log_length=10)
    await writer.open(LEASE, ())
    for number in range(300):
        await writer.publish([number], ())
    assert 10 <= await redis.xlen(keys.log("r", writer.epoch)) <= 200


async def test_redis_away_is_our_error_and_comes_soon(keys):
    """Nobody waits long for a Redis that is not there, and the client's own errors do not leak."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = connect(f"redis://127.0.0.1:{closed.getsockname()[1]}/0")
        writer = OwnershipWriter(client, keys, "r", 10.0, 10)
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="Redis"):
            await writer.open(LEASE, ())
        assert time.monotonic() - started < 1.0
        await client.aclose()
