"""Operators' commands hold for every router, survive lost data, and end when nobody needs them any more."""

import time

import fakeredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import StoreUnavailableError
from cluster.protocol.wire import Keys
from cluster.store import operator_commands
from cluster.store.operator_commands import (
    KEPT_SECONDS,
    MAX_PREFIXES,
    SEEN_SECONDS,
    CommandStore,
    Kind,
    OperatorCommand,
    outdated,
)

HASH = "test:operator_commands"


@pytest.fixture
def server():
    """A Redis in this process; `connected` is whether it answers."""
    return fakeredis.FakeServer(version=(7,))


@pytest.fixture
def start(server):
    """Makes the store of one more router."""

    def start():
        redis = fakeredis.FakeAsyncRedis(server=server)
        store = CommandStore(redis, Keys("test"))
        store.redis = redis  # whoever uses its commands holds the client
        return store

    return start


@pytest.fixture
def clock(monkeypatch):
    """Seconds since 1970, as a list of one number."""
    now = [time.time()]
    monkeypatch.setattr(operator_commands.time, "time", lambda: now[0])
    return now


async def drained(store, replicas=("a", "b")):
    """Which replicas are drained, as this router reads it."""
    found = await store.read(replicas)
    return {target for (kind, target), command in found.items() if kind is Kind.DRAIN and command.on}


async def test_all_routers_read_what_one_was_told(start):
    """And what was taken back."""
    one, other = start(), start()
    assert await drained(other) == set()
    await one.issue(Kind.DRAIN, "a")
    assert await drained(one) == await drained(other) == await drained(start()) == {"a"}
    await other.issue(Kind.DRAIN, "a", on=False)
    assert await drained(one) == await drained(other) == await drained(start()) == set()


async def test_each_reset_is_told_from_the_one_before(start, clock):
    """By its time."""
    one, other = start(), start()
    first = await one.issue(Kind.RESET_REPLICA, "a")
    assert (await other.read(()))[Kind.RESET_REPLICA, "a"] == OperatorCommand(True, first)
    clock[0] += 0.001
    assert await one.issue(Kind.RESET_REPLICA, "a") > first


async def test_lost_data_is_written_again(start):
    """By any router that remembers it, without undoing what was decided since."""
    one, other = start(), start()
    await one.issue(Kind.DRAIN, "a")
    await one.issue(Kind.DRAIN, "b")
    assert await drained(one) == await drained(other) == {"a", "b"}
    await one.redis.delete(HASH)
    await other.issue(Kind.DRAIN, "b", on=False)
    assert await drained(one) == await drained(start()) == {"a"}


async def test_without_redis_nothing_changes(start, server):
    """A command is refused, and the next reading brings what was true before."""
    store = start()
    await store.issue(Kind.DRAIN, "a")
    server.connected = False
    with pytest.raises(StoreUnavailableError):
        await store.issue(Kind.DRAIN, "b")
    with pytest.raises(StoreUnavailableError):
        await store.read(())
    server.connected = True
    assert await drained(store) == {"a"}


async def test_a_replica_that_is_there_stays_drained(start, clock):
    """For ever; one that is gone for a day is forgotten, by routers that remember it, too."""
    one, other = start(), start()
    await one.issue(Kind.DRAIN, "a")
    for _ in range(30):
        clock[0] += SEEN_SECONDS + 1
        assert await drained(one) == await drained(other) == {"a"}
    clock[0] += KEPT_SECONDS - SEEN_SECONDS - 2
    assert await drained(one, ["b"]) == await drained(other, ["b"]) == {"a"}
    clock[0] += SEEN_SECONDS + 3
    assert await drained(one, ["b"]) == await drained(other, ["b"]) == set()
    assert await drained(one) == set()
    assert await one.redis.hgetall(HASH) == {}


async def test_an_undrain_is_not_undone_by_one_who_saw_the_replica(start, clock):
    """Noting that a replica is there never writes whether it is drained."""
    one, other = start(), start()
    await one.issue(Kind.DRAIN, "a")
    clock[0] += SEEN_SECONDS + 1
    await other.read(["a"])
    await one.issue(Kind.DRAIN, "a", on=False)
    assert await drained(other) == set()


async def test_resets_of_blocks_are_bounded(start, clock):
    """The newest hundred stay, also where others remember more."""
    one, other = start(), start()
    for number in range(MAX_PREFIXES + 5):
        clock[0] += 1
        await one.issue(Kind.RESET_PREFIX, f"{number:016x}")
        if number == MAX_PREFIXES - 1:
            await other.read(())
    expected = {f"{number:016x}" for number in range(5, MAX_PREFIXES + 5)}
    for router in (one, other, one):
        assert {target for _, target in await router.read(())} == expected
    assert await one.redis.hlen(HASH) == MAX_PREFIXES


async def test_unreadable_fields_are_left_alone(start):
    """A router of another version may have written them."""
    store = start()
    await store.issue(Kind.DRAIN, "a")
    foreign = {
        "teleport:a": b"[true,1]",
        "drain:b": b"{",
        "drain": b"[]",
        "prefix:zz": b"[true,1]",
        b"\xff:x": b"\xff",
    }
    await store.redis.hset(HASH, mapping=foreign)
    assert await drained(store) == {"a"}
    assert await store.redis.hlen(HASH) == 1 + len(foreign)


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(Kind), st.sampled_from(["a", "b", ""])),
        st.builds(OperatorCommand, st.booleans(), st.floats(0, 3 * KEPT_SECONDS)),
    ),
    st.floats(0, 4 * KEPT_SECONDS),
)
def test_what_is_outdated(known, now):
    """Everything a day after its time, except a drain whose replica was seen since; and a reset of caches
    never, as long as no reset of all caches came later."""
    dropped = outdated(known, now)
    everything = known.get((Kind.RESET_CACHE, ""), OperatorCommand(False, 0)).at
    for name, command in known.items():
        if name[0] is Kind.RESET_CACHE:
            assert (name in dropped) == (command.at < everything)
            continue
        seen = known.get((Kind.SEEN, name[1]), OperatorCommand(False, 0)).at
        alive = name[0] is Kind.DRAIN and command.on and now - seen <= KEPT_SECONDS
        assert (name in dropped) == (now - command.at > KEPT_SECONDS and not alive)
