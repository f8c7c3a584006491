"""The events' wire, read with structs declared as vLLM declares them."""

import contextlib
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from workers.sim import block_manager
from workers.sim.kv_publisher import KVPublisher, PublisherConfig


class KVCacheEvent(msgspec.Struct, omit_defaults=True, gc=False, tag=True):
    """As in vllm/distributed/kv_events.py."""


class BlockStored(KVCacheEvent):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(KVCacheEvent):
    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(KVCacheEvent):
    pass


class KVEventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


STORED = block_manager.BlockStored(
    block_hashes=[2**64 - 1],
    parent_block_hash=None,
    token_ids=[1, 2],
    block_size=2,
    lora_id=None,
    medium="GPU",
    lora_name=None,
    extra_keys=[("salt",)],
    group_idx=0,
)
REMOVED = block_manager.BlockRemoved(block_hashes=[7], medium="GPU", group_idx=0)
CLEARED = block_manager.AllBlocksCleared()


class Clients:
    """Sockets of one test, closed at its end."""

    def __init__(self):
        self.context = zmq.asyncio.Context()
        self._stack = contextlib.ExitStack()

    def connect(self, kind, endpoint, subscription=None):
        socket = self._stack.enter_context(self.context.socket(kind))
        if subscription is not None:
            socket.setsockopt(zmq.SUBSCRIBE, subscription)
        socket.connect(endpoint)
        return socket

    def close(self):
        self._stack.close()
        self.context.destroy(linger=0)


@pytest.fixture
def clients():
    """Sockets of a test's clients."""
    clients = Clients()
    yield clients
    clients.close()


@pytest.fixture
def context():
    """Context of the publishers of a test."""
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
async def publisher(context):
    """Build a publisher that keeps three batches."""
    config = PublisherConfig("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", buffer_steps=3)
    publisher = KVPublisher(context, config)
    yield publisher
    publisher.close()


async def subscribe(clients, publisher):
    """Connect a subscriber, and wait until its subscription is known."""
    subscriber = clients.connect(zmq.SUB, publisher.config.endpoint, b"kv")
    while not await subscriber.poll(5):
        publisher._pub.send_multipart([b"kv", b"probe", b""])
    while await subscriber.poll(20):
        await subscriber.recv_multipart()
    return subscriber


async def replay(clients, publisher, first):
    """Ask for a replay the way vLLM's clients do; returns (topic, sequence, payload) of each batch."""
    dealer = clients.connect(zmq.DEALER, publisher.config.replay_endpoint)
    await dealer.send_multipart([b"", first.to_bytes(8, "big")])
    batches = []
    while True:
        empty, topic, sequence, payload = await dealer.recv_multipart()
        assert empty == b""
        number = int.from_bytes(sequence, "big", signed=True)
        if number == -1:
            return batches
        batches.append((topic, number, payload))


async def test_batches_look_like_vllms(clients, publisher):
    """Frames are topic, sequence from 0, and a payload that vLLM's own structs decode."""
    subscriber = await subscribe(clients, publisher)
    publisher.publish([STORED, REMOVED])
    publisher.publish([CLEARED])
    topic, sequence, payload = await subscriber.recv_multipart()
    batch = msgspec.msgpack.decode(payload, type=KVEventBatch)
    assert (topic, sequence, batch.data_parallel_rank) == (b"kv", bytes(8), 0)
    assert msgspec.structs.asdict(batch.events[0]) == {
        **msgspec.structs.asdict(STORED),
        "kv_cache_spec_kind": None,
    }
    assert batch.events[1] == BlockRemoved([7], "GPU", 0)
    _, sequence, payload = await subscriber.recv_multipart()
    assert sequence == (1).to_bytes(8, "big")
    assert msgspec.msgpack.decode(payload, type=KVEventBatch).events == [AllBlocksCleared()]


async def test_fields_at_their_default_are_left_out(clients, publisher):
    """The payload is an array of timestamp, tagged maps and rank, without fields that say nothing."""
    subscriber = await subscribe(clients, publisher)
    publisher.publish([CLEARED, block_manager.BlockRemoved([1], "GPU")])
    _, _, payload = await subscriber.recv_multipart()
    _, events, rank = msgspec.msgpack.decode(payload)
    assert (events[0], rank) == ({"type": "AllBlocksCleared"}, 0)
    assert events[1] == {"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU"}


async def test_replay_starts_where_asked(clients, publisher):
    """A client gets every buffered batch from its first missed one, byte for byte, and then the end mark."""
    subscriber = await subscribe(clients, publisher)
    for _ in range(3):
        publisher.publish([CLEARED])
    published = [await subscriber.recv_multipart() for _ in range(3)]
    replayed = await replay(clients, publisher, 1)
    assert [number for _, number, _ in replayed] == [1, 2]
    assert [payload for _, _, payload in replayed] == [payload for _, _, payload in published[1:]]


async def test_replay_holds_only_the_last_batches(clients, publisher):
    """What fell out of the buffer is gone; a client sees that the first sequence is not the one it wanted."""
    for _ in range(5):
        publisher.publish([CLEARED])
    assert [number for _, number, _ in await replay(clients, publisher, 0)] == [2, 3, 4]


async def test_replay_of_nothing_ends_at_once(clients, publisher):
    """A client that is up to date gets the end mark alone."""
    assert await replay(clients, publisher, 0) == []


async def test_malformed_replay_requests_are_ignored(clients, publisher):
    """A request with the wrong number of frames gets no answer and breaks nothing."""
    dealer = clients.connect(zmq.DEALER, publisher.config.replay_endpoint)
    await dealer.send_multipart([b"what"])
    publisher.publish([CLEARED])
    assert len(await replay(clients, publisher, 0)) == 1
    assert not await dealer.poll(20)


async def test_ipc_endpoints(context, clients, tmp_path):
    """Events can also be published over Unix sockets."""
    endpoint, replay_endpoint = f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/replay"
    publisher = KVPublisher(context, PublisherConfig(endpoint, replay_endpoint))
    try:
        publisher.publish([CLEARED])
        assert publisher.config.endpoint == endpoint
        assert len(await replay(clients, publisher, 0)) == 1
    finally:
        publisher.close()


async def test_occupied_endpoint_is_an_error_and_leaks_nothing(context, publisher):
    """Binding twice fails with ZeroMQ's error, and the sockets are closed."""
    with pytest.raises(zmq.ZMQError):
        KVPublisher(context, PublisherConfig("tcp://127.0.0.1:0", publisher.config.endpoint))
