"""Where responses are kept: by owner, within bounds, in Redis only encrypted."""

import asyncio

import msgspec
import pytest
from pydantic import ValidationError

from cluster.protocol.wire import Keys
from cluster.store.store import connect
from router.errors import BodyTooLargeError, InvalidRequestError, NotDecidedError, NotFoundError
from router.settings import RouterSettings
from router.stored.history import MAX_TURNS, Record, StoredResponses
from router.stored.vault import MemoryVault, RedisVault

SECRET = "a secret of 16 or more"


def settings(**changes):
    """Of a router that keeps responses."""
    values = {"stored_responses": "redis", "stored_keys": SECRET, "stored_entries": 16, "stored_seconds": 60}
    return RouterSettings(**{**values, **changes})


@pytest.fixture
async def redis(redis_server):
    """A client of a Redis of this test's own."""
    client = connect(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture(params=["memory", "redis"])
def vault(request, redis):
    """Of each kind."""
    return (
        MemoryVault(settings()) if request.param == "memory" else RedisVault(settings(), redis, Keys("test"))
    )


async def test_entries_belong_to_their_owner(vault):
    """Another owner's are like those that were never there."""
    assert await vault.write("a", "resp_1", b"text")
    assert await vault.read("b", "resp_1") == [None]
    [found, missing] = await vault.read("a", "resp_1", "resp_2")
    assert (found.value, missing) == (b"text", None)
    await vault.remove("b", "resp_1")
    assert (await vault.read("a", "resp_1"))[0].value == b"text"
    await vault.remove("a", "resp_1")
    assert await vault.read("a", "resp_1") == [None]


async def test_what_belongs_to_another_owner_is_looked_for_like_what_never_was(redis):
    """One read of Redis for either, however it is referred to."""
    vault = RedisVault(settings(), redis, Keys("test"))
    stored = StoredResponses(vault, 1000)
    conversation = (await stored.create_conversation("a", {})).id
    await vault.write("a", "resp_1", msgspec.msgpack.encode(Record({"status": "completed"}, [], [])))
    assert await stored.record("a", "resp_1")
    execute, commands = vault._execute, []

    def counted(*command):
        commands.append(command[0])
        return execute(*command)

    vault._execute = counted
    for name in ("resp_1", "resp_2", conversation, "conv_2"):
        referring = "conversation" if name.startswith("conv") else "previous_response_id"
        for attempt in (
            stored.conversation("b", name) if name.startswith("conv") else stored.record("b", name),
            stored.open("b", {"input": "x", referring: name}),
        ):
            commands.clear()
            with pytest.raises(NotFoundError):
                await attempt
            assert commands == ["GETEX"]


async def test_only_the_version_that_was_read_is_replaced(vault):
    """Of two that change the same entry one has to look again; what was deleted does not come back."""
    await vault.write("a", "x", b"1")
    [entry] = await vault.read("a", "x")
    assert await vault.write("a", "x", b"2", entry.version)
    assert not await vault.write("a", "x", b"3", entry.version)
    [entry] = await vault.read("a", "x")
    assert entry.value == b"2"
    await vault.remove("a", "x")
    assert not await vault.write("a", "x", b"4", entry.version)
    assert await vault.read("a", "x") == [None]


async def test_number_of_entries_is_bounded(vault):
    """The oldest ones of an owner go, and nobody else's."""
    await vault.write("b", "x", b"1")
    for number in range(20):
        await vault.write("a", f"resp_{number:02}", b"1")
    found = await vault.read("a", *(f"resp_{number:02}" for number in range(20)))
    assert [entry is not None for entry in found] == [False] * 4 + [True] * 16
    assert (await vault.read("b", "x"))[0] is not None


async def test_redis_holds_no_text_and_other_keys_open_nothing(redis):
    """Nor does an entry under the name of another one. A second key decrypts what it has encrypted."""
    vault = RedisVault(settings(), redis, Keys("test"))
    await vault.write("owner", "resp_1", b"the text")
    [key] = [key async for key in redis.scan_iter(match="*resp_1")]
    value = await redis.get(key)
    assert b"text" not in value
    assert b"owner" not in key
    assert 0 < await redis.ttl(key) <= 60
    other = RedisVault(settings(stored_keys="another secret as long"), redis, Keys("test"))
    assert await other.read("owner", "resp_1") == [None]
    both = RedisVault(settings(stored_keys=f"another secret as long,{SECRET}"), redis, Keys("test"))
    assert (await both.read("owner", "resp_1"))[0].value == b"the text"
    await redis.set(key.replace(b"resp_1", b"resp_2"), value)
    assert await vault.read("owner", "resp_2") == [None]


async def test_without_redis_nothing_is_read_or_written():
    """503, soon."""
    redis = connect("redis://127.0.0.1:1")
    vault = RedisVault(settings(), redis, Keys("test"))
    for attempt in (vault.read("a", "x"), vault.write("a", "x", b"1"), vault.remove("a", "x")):
        with pytest.raises(NotDecidedError):
            await attempt
    await redis.aclose()


@pytest.mark.parametrize("changes", [{"stored_keys": ""}, {"stored_keys": "short"}])
def test_redis_needs_a_secret(changes):
    """And not a short one."""
    with pytest.raises(ValidationError):
        settings(**changes)


# ---- what is kept there ----


@pytest.fixture
def stored():
    """In memory."""
    return StoredResponses(MemoryVault(settings(stored_entries=2000)), 10_000)


async def finished(stored, fields, owner="a"):
    """A request that has been answered."""
    turn = await stored.open(owner, {"model": "m", **fields})
    about = {"status": "completed", "output": [{"type": "message", "role": "assistant", "content": "yes"}]}
    await stored.finish(turn, turn.shown(about))
    return turn


async def test_engine_gets_the_whole_history(stored):
    """Reasoning and calls, too; it is told to keep nothing, and instructions of earlier turns are not
    repeated."""
    first = await stored.open("a", {"model": "m", "input": "one", "instructions": "be brief"})
    output = [
        {"type": "reasoning", "id": "rs_1", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    await stored.finish(first, first.shown({"status": "completed", "output": output}))
    result = {"type": "function_call_output", "call_id": "c", "output": "r"}
    second = await stored.open("a", {"model": "m", "input": [result], "previous_response_id": first.id})
    body = msgspec.json.decode(second.body)
    assert body["input"] == [*first.items, *output, result]
    assert (body["store"], "instructions" in body, "previous_response_id" in body) == (False, False, False)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"previous_response_id": "resp_1"}, NotFoundError),
        ({"previous_response_id": "../x"}, NotFoundError),
        ({"previous_response_id": 5}, NotFoundError),
        ({"conversation": "conv_1"}, NotFoundError),
        ({"conversation": {"id": None}, "previous_response_id": "resp_1"}, NotFoundError),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, InvalidRequestError),
        ({"background": True, "store": False}, InvalidRequestError),
        ({"input": 5}, InvalidRequestError),
    ],
)
async def test_what_is_refused(stored, fields, error):
    """References that lead nowhere, and requests that contradict themselves."""
    with pytest.raises(error):
        await stored.open("a", {"model": "m", "input": "a", **fields})


async def test_what_refers_to_nothing_and_is_not_kept(stored):
    """Goes to an engine as it is."""
    assert await stored.open("a", {"model": "m", "input": "a", "store": False}) is None


async def test_turns_and_sizes_are_bounded(stored):
    """An endless conversation, and a text that is too long to be kept."""
    turn = await finished(stored, {"input": "a"})
    await stored.change("a", turn.id, lambda record: Record(record.response, [], ["resp_x"] * MAX_TURNS))
    with pytest.raises(InvalidRequestError):
        await stored.open("a", {"input": "a", "previous_response_id": turn.id})
    with pytest.raises(BodyTooLargeError):
        await finished(stored, {"input": "a" * 20_000})


async def test_deleted_turn_ends_its_conversation(stored):
    """Its text is nowhere else, so what came after it cannot go on."""
    first = await finished(stored, {"input": "one"})
    second = await finished(stored, {"input": "two", "previous_response_id": first.id})
    await stored.vault.remove("a", first.id)
    with pytest.raises(NotFoundError, match="earlier turn"):
        await stored.open("a", {"input": "three", "previous_response_id": second.id})


async def test_turns_at_the_same_time_lose_nothing(stored):
    """Of one conversation: all of their items are in it."""
    made = await stored.create_conversation("a", {})
    await asyncio.gather(*(finished(stored, {"input": f"{n}", "conversation": made.id}) for n in range(5)))
    assert len((await stored.conversation("a", made.id)).items) == 10
