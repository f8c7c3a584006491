"""Engines without inference: they announce KV blocks on vLLM's wire, as fast as they are told to.

Each has what an agent asks an engine for (``/health``, ``/v1/models``, ``/metrics``, ``/kv_event_sources``,
and the event sockets of simulated engines) and a cache of fixed size. A batch stores some blocks at the end
of a conversation; when the cache is full it first removes as many, those of the oldest conversation, its
last ones first.
"""

import asyncio
import json
import socket
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

import zmq
from aiohttp import web

from cluster.protocol.block_keys import KEY_BYTES, Namespace, block_keys
from workers.sim.block_manager import MEDIUM_GPU, BlockRemoved, BlockStored, Event
from workers.sim.kv_publisher import KVPublisher, PublisherConfig

MODEL = "blocks"
BLOCK_SIZE = 16
ROOT = Namespace("", BLOCK_SIZE).root()
"""The directory that the engines name as their model's has no tokenizer, hence no fingerprint."""
CONVERSATION_BATCHES = 4
"""Batches that continue one another before a new conversation begins."""
TOKEN_RANGE = 1 << 15
FILLER = list(range(1_000, 1_000 + BLOCK_SIZE - 3))
HASH_FACTOR = 0x9E3779B97F4A7C15
PUBLISHER = PublisherConfig("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")


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

    def advance(self) -> tuple[SentBatch, list[Event]]:
        """The next batch and the events that announce it."""
        events: list[Event] = []
        if self.is_full:
            events.append(BlockRemoved(self._evict().hashes()[::-1], MEDIUM_GPU))
        batch = self._store()
        stored = BlockStored(
            batch.hashes(), batch.parent_hash(), batch.tokens(), BLOCK_SIZE, None, MEDIUM_GPU, None
        )
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
        self._started_at = time.time()
        self._publisher = KVPublisher(context, PUBLISHER)

    @property
    def replica(self) -> str:
        """The id that an agent gives it."""
        return f"127.0.0.1-{self.listener.getsockname()[1]}"

    @property
    def url(self) -> str:
        """The URL at which it answers."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def announce(self) -> SentBatch:
        """Store the next batch and publish it."""
        batch, events = self.cache.advance()
        batch.sent = time.time()
        self._publisher.publish(events)
        return batch

    def fill(self) -> None:
        """Announce batches until the cache is full."""
        while not self.cache.is_full:
            self.announce()

    def close(self) -> None:
        """Unbind."""
        self._publisher.close()

    def application(self) -> web.Application:
        """What an agent asks over HTTP."""
        models = {"data": [{"id": MODEL, "root": self._model, "parent": None, "max_model_len": 32_768}]}
        sources = {"0": asdict(self._publisher.config)}
        metrics = (
            f'vllm:cache_config_info{{block_size="{BLOCK_SIZE}",num_gpu_blocks="{self.cache.capacity}"}} 1\n'
            f"vllm:num_requests_running 0\nprocess_start_time_seconds {self._started_at}\n"
        )

        texts = {
            "/health": "",
            "/v1/models": json.dumps(models),
            "/kv_event_sources": json.dumps(sources),
            "/metrics": metrics,
        }

        async def answer(request: web.Request) -> web.Response:
            return web.Response(text=texts[request.path])

        application = web.Application()
        application.add_routes(web.get(path, answer) for path in texts)
        return application


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
