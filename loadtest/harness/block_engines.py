"""Engines without inference: they announce KV blocks on vLLM's wire, as fast as they are told to.

Each has what an agent asks an engine for (``/health``, ``/v1/models``, ``/metrics``, ``/kv_event_sources``,
PUB and ROUTER sockets) and a cache of fixed size. A batch stores some blocks at the end of a conversation;
when the cache is full it first removes as many, those of the oldest conversation, its last ones first.
"""

import asyncio
import socket
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import zmq
from aiohttp import web

from cluster.protocol.block_keys import KEY_BYTES, Namespace, block_keys

MODEL = "blocks"
BLOCK_SIZE = 16
ROOT = Namespace(MODEL, "", BLOCK_SIZE).root()
"""The directory that the engines name as their model's has no tokenizer, hence no fingerprint."""
CONVERSATION_BATCHES = 4
"""Batches that continue one another before a new conversation begins."""
TOKEN_RANGE = 1 << 15
FILLER = list(range(1_000, 1_000 + BLOCK_SIZE - 3))
HASH_FACTOR = 0x9E3779B97F4A7C15
BUFFERED_BATCHES = 10_000
"""vLLM's default."""
SEND_QUEUE = 100_000
END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)


class BlockStored(msgspec.Struct, tag=True, omit_defaults=True, gc=False):
    """As in vLLM."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str = "GPU"


class BlockRemoved(msgspec.Struct, tag=True, gc=False):
    """As in vLLM."""

    block_hashes: list[int]
    medium: str = "GPU"


class KVEventBatch(msgspec.Struct, array_like=True, gc=False):
    """As in vLLM."""

    ts: float
    events: list[BlockStored | BlockRemoved]
    data_parallel_rank: int = 0


@dataclass(slots=True, eq=False)
class SentBatch:
    """One announcement: which blocks were stored, and when."""

    engine: int
    first: int
    """Number of its first block on that engine; the others follow."""
    count: int
    previous: "SentBatch | None"
    """The batch whose last block its first one follows."""
    sent: float = 0.0
    """`time.time` right before it was given to the socket."""
    _last_key: int = 0

    @property
    def last_key(self) -> int:
        """The key that a router computes for its last block."""
        if not self._last_key:
            self._last_key = self.block_keys()[-1]
        return self._last_key

    def block_keys(self) -> list[int]:
        """The keys that routers compute for its blocks."""
        parent = self.previous.last_key.to_bytes(KEY_BYTES, "big") if self.previous else ROOT
        return block_keys(parent, self.tokens(), BLOCK_SIZE)

    def tokens(self) -> list[int]:
        """Token ids, none of which another block has in this order."""
        tokens = []
        for number in range(self.first, self.first + self.count):
            tokens += [self.engine, *divmod(number, TOKEN_RANGE), *FILLER]
        return tokens

    def hashes(self) -> list[int]:
        """What the engine calls its blocks."""
        return [self._hash(number) for number in range(self.first, self.first + self.count)]

    def parent_hash(self) -> int | None:
        """What the engine calls the block before its first."""
        return self.previous._hash(self.first - 1) if self.previous else None

    def _hash(self, number: int) -> int:
        return ((self.engine << 40 | number) + 1) * HASH_FACTOR % 2**64


class BlockCache:
    """Which blocks one engine holds, and what it says next."""

    def __init__(self, engine: int, capacity: int, blocks_per_batch: int) -> None:
        if capacity < 2 * CONVERSATION_BATCHES * blocks_per_batch:
            raise SystemExit(f"a cache of {capacity} blocks is too small for batches of {blocks_per_batch}")
        self._engine = engine
        self.capacity = capacity
        """Blocks there is room for."""
        self._blocks_per_batch = blocks_per_batch
        self._conversations: deque[list[SentBatch]] = deque()
        self._next_block = 0
        self.num_blocks = 0
        """Blocks held."""

    @property
    def is_full(self) -> bool:
        """Whether the next batch removes as much as it stores."""
        return self.num_blocks + self._blocks_per_batch > self.capacity

    def advance(self) -> tuple[SentBatch, list[BlockStored | BlockRemoved]]:
        """The next batch and the events that announce it."""
        events: list[BlockStored | BlockRemoved] = []
        if self.is_full:
            events.append(BlockRemoved(self._evict().hashes()[::-1]))
        batch = self._store()
        stored = BlockStored(batch.hashes(), batch.parent_hash(), batch.tokens(), BLOCK_SIZE, None)
        return batch, [*events, stored]

    def held(self) -> Iterator[SentBatch]:
        """All batches that are in the cache."""
        for conversation in self._conversations:
            yield from conversation

    def _store(self) -> SentBatch:
        if not self._conversations or len(self._conversations[-1]) == CONVERSATION_BATCHES:
            self._conversations.append([])
        conversation = self._conversations[-1]
        previous = conversation[-1] if conversation else None
        batch = SentBatch(self._engine, self._next_block, self._blocks_per_batch, previous)
        conversation.append(batch)
        self._next_block += batch.count
        self.num_blocks += batch.count
        return batch

    def _evict(self) -> SentBatch:
        oldest = self._conversations[0]
        batch = oldest.pop()
        if not oldest:
            self._conversations.popleft()
        self.num_blocks -= batch.count
        return batch


class BlockEngine:
    """One engine: a cache, its event sockets, and its HTTP port. Needs a running event loop."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], cache: BlockCache, listener: socket.socket, model: str
    ) -> None:
        self.cache = cache
        self.listener = listener
        self._model = model
        self._capacity = cache.capacity
        self._started_at = time.time()
        self._encoder = msgspec.msgpack.Encoder()
        self._sequence = 0
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=BUFFERED_BATCHES)
        self._pub, self._endpoint = _bound(context, zmq.PUB, SEND_QUEUE)
        self._replay, self._replay_endpoint = _bound(context, zmq.ROUTER)
        asyncio.get_running_loop().add_reader(int(self._replay.fd), self._serve_replays)

    @property
    def replica(self) -> str:
        """The id that an agent gives it."""
        return f"127.0.0.1-{self.listener.getsockname()[1]}"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def announce(self) -> SentBatch:
        """Store the next batch and publish it."""
        batch, events = self.cache.advance()
        batch.sent = time.time()
        frames = (self._sequence.to_bytes(8, "big"), self._encoder.encode(KVEventBatch(batch.sent, events)))
        self._pub.send_multipart((b"kv", *frames))
        self._buffer.append(frames)
        self._sequence += 1
        return batch

    def fill(self) -> None:
        """Announce batches until the cache is full."""
        while not self.cache.is_full:
            self.announce()

    def close(self) -> None:
        """Unbind."""
        asyncio.get_running_loop().remove_reader(int(self._replay.fd))
        self._pub.close(linger=0)
        self._replay.close(linger=0)

    def application(self) -> web.Application:
        """What an agent asks over HTTP."""
        models = {"data": [{"id": MODEL, "root": self._model, "parent": None, "max_model_len": 32_768}]}
        publisher = {"endpoint": self._endpoint, "replay_endpoint": self._replay_endpoint, "topic": "kv"}
        metrics = (
            f'vllm:cache_config_info{{block_size="{BLOCK_SIZE}",num_gpu_blocks="{self._capacity}"}} 1\n'
            f"vllm:num_requests_running 0\nprocess_start_time_seconds {self._started_at}\n"
        )

        async def health(_request: web.Request) -> web.Response:
            return web.Response()

        async def list_models(_request: web.Request) -> web.Response:
            return web.json_response(models)

        async def event_sources(_request: web.Request) -> web.Response:
            return web.json_response({"0": publisher})

        async def show_metrics(_request: web.Request) -> web.Response:
            return web.Response(text=metrics)

        application = web.Application()
        application.router.add_get("/health", health)
        application.router.add_get("/v1/models", list_models)
        application.router.add_get("/kv_event_sources", event_sources)
        application.router.add_get("/metrics", show_metrics)
        return application

    def _serve_replays(self) -> None:
        """Answer all waiting requests: the descriptor signals edges, so stopping early loses the rest."""
        while int(self._replay.get(zmq.EVENTS)) & zmq.POLLIN:
            client, _, first = self._replay.recv_multipart(zmq.NOBLOCK)
            for sequence, payload in self._buffer:
                if sequence >= first:
                    self._replay.send_multipart((client, b"", b"kv", sequence, payload))
            self._replay.send_multipart((client, b"", b"", END_OF_REPLAY, b""))


def _bound(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, queue: int = 0
) -> tuple[zmq.Socket[bytes], str]:
    bound = context.socket(kind)
    if queue:
        bound.set_hwm(queue)
    bound.bind("tcp://127.0.0.1:*")
    return bound, bound.getsockopt_string(zmq.LAST_ENDPOINT)


@asynccontextmanager
async def serve_block_engines(
    count: int, capacity: int, blocks_per_batch: int
) -> AsyncIterator[list[BlockEngine]]:
    """Engines with full caches, all in this process."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    engines: list[BlockEngine] = []
    runners: list[web.AppRunner] = []
    with tempfile.TemporaryDirectory(prefix="warmroute-no-model-") as model:
        try:
            for number in range(count):
                cache = BlockCache(number, capacity, blocks_per_batch)
                listener = socket.create_server(("127.0.0.1", 0))
                engines.append(BlockEngine(context, cache, listener, model))
                engines[-1].fill()
                runners.append(web.AppRunner(engines[-1].application(), access_log=None, shutdown_timeout=1))
                await runners[-1].setup()
                await web.SockSite(runners[-1], listener).start()
            yield engines
        finally:
            await asyncio.gather(*(runner.cleanup() for runner in runners))
            for engine in engines:
                engine.close()
            context.destroy(linger=0)


@dataclass(slots=True)
class Driven:
    """What was announced during one stretch of load."""

    batches: list[SentBatch] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    """Seconds by which batches were sent later than planned: the generator's own lag."""
    seconds: float = 0.0


async def drive(engines: Sequence[BlockEngine], rate: float, seconds: float) -> Driven:
    """Have the engines announce ``rate`` batches a second in sum, each in turn (open loop)."""
    driven = Driven()
    begin = time.perf_counter()
    for number in range(round(rate * seconds)):
        planned = begin + number / rate
        await asyncio.sleep(max(0.0, planned - time.perf_counter()))
        driven.lags.append(time.perf_counter() - planned)
        driven.batches.append(engines[number % len(engines)].announce())
    driven.seconds = time.perf_counter() - begin
    return driven
