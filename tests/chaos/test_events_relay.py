"""KV events under weather, and the shadow of an engine."""

import asyncio
import contextlib

import msgspec
import pytest
import zmq
import zmq.asyncio

from cluster.protocol.block_keys import Namespace, block_keys
from tests.chaos.events_relay import CALM, EventsRelay, Shadow, Weather
from tests.chaos.proxy import HOST, reserve_port
from tests.waiting import eventually

pytestmark = pytest.mark.integration

ROOT = Namespace("print", 2).root()
TOKENS = [1, 2, 3, 4, 5, 6]
KEYS = block_keys(ROOT, TOKENS, 2)


def _batch(*events: dict) -> bytes:
    return msgspec.msgpack.encode([0.0, list(events), 0])


def _stored(hashes: list[int], parent: int | None, tokens: list[int]) -> dict:
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": parent,
        "token_ids": tokens,
        "block_size": 2,
    }


def _removed(*hashes: int) -> dict:
    return {"type": "BlockRemoved", "block_hashes": list(hashes)}


def test_a_shadow_holds_what_the_engine_has_announced():
    """Keys are those that routers compute; a block with two copies stays until both are gone."""
    shadow = Shadow(ROOT)
    shadow.take(0, _batch(_stored([7, 8], None, TOKENS[:4]), _stored([7], None, TOKENS[:2])))
    shadow.take(1, _batch(_stored([9], 8, TOKENS[4:])))
    assert shadow.keys == set(KEYS)
    shadow.take(2, _batch(_removed(9, 7)))
    assert shadow.keys == set(KEYS[:2])
    shadow.take(3, _batch(_removed(7), {"type": "AllBlocksCleared"}))
    assert shadow.keys == set()
    assert shadow.complete


def test_a_shadow_knows_when_it_has_missed_something():
    """Until the engine starts anew: then what it held before is gone."""
    shadow = Shadow(ROOT)
    shadow.take(0, _batch(_stored([7], None, TOKENS[:2])))
    shadow.take(2, _batch(_removed(55)))
    assert not shadow.complete
    shadow.take(0, _batch(_stored([7], None, TOKENS[2:4])))
    assert shadow.complete
    assert shadow.keys == set(block_keys(ROOT, TOKENS[2:4], 2))


@contextlib.asynccontextmanager
async def _relay():
    """A publisher, a relay behind it, and a subscriber."""
    context = zmq.asyncio.Context()
    port = reserve_port()
    source, target = context.socket(zmq.PUB), context.socket(zmq.SUB)
    source.bind(f"tcp://{HOST}:{port}")
    relay = EventsRelay(context, port, Shadow(ROOT), "seed")
    target.subscribe(b"kv")
    target.connect(f"tcp://{HOST}:{relay.port}")
    task = asyncio.create_task(relay.run())
    await asyncio.sleep(0.15)
    try:
        yield relay, source, target
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        context.destroy(linger=0)


async def _send(source, first: int, last: int) -> None:
    for number in range(first, last):
        await source.send_multipart([b"kv", number.to_bytes(8, "big"), _batch()])


async def _receive(target, seconds: float = 0.2) -> list[int]:
    numbers = []
    while await target.poll(int(seconds * 1000)):
        numbers.append(int.from_bytes((await target.recv_multipart())[1], "big"))
    return numbers


async def test_in_calm_weather_everything_arrives_in_order():
    """And the shadow has seen it."""
    async with _relay() as (relay, source, target):
        await _send(source, 0, 20)
        assert await _receive(target) == list(range(20))
        await eventually(lambda: relay.shadow.complete)


@pytest.mark.parametrize(
    ("weather", "expected"),
    [
        (Weather(drop=1.0), []),
        (Weather(duplicate=1.0), [0, 0, 1, 1, 2, 2, 3, 3]),
        (Weather(reorder=1.0), [1, 0, 3, 2]),
    ],
)
async def test_weather(weather, expected):
    """Certain weather does what it says to every batch, and none of it to the shadow."""
    async with _relay() as (relay, source, target):
        relay.weather = weather
        await _send(source, 0, 4)
        assert await _receive(target) == expected
        relay.weather = CALM
        await _send(source, 4, 6)
        assert await _receive(target) == [4, 5]
        await eventually(lambda: relay.shadow.complete)


async def test_delayed_events_die_with_their_engine():
    """What a killed engine had said and was not delivered yet is not delivered after its restart."""
    async with _relay() as (relay, source, target):
        relay.weather = Weather(delay=0.3)
        await _send(source, 0, 3)
        assert await _receive(target, 0.1) == []
        relay.engine_killed()
        relay.weather = CALM
        await _send(source, 0, 1)
        assert await _receive(target, 0.4) == [0]
