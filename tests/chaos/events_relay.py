"""KV events of one engine on their way to its agent: dropped, delayed, doubled or out of order.

Everything the engine has said is also kept in a `Shadow`, before the weather gets at it.
"""

import asyncio
import contextlib
import random
from collections import deque
from dataclasses import dataclass

import msgspec
import zmq
import zmq.asyncio

from cluster.protocol.block_keys import block_key, pack_tokens
from tests.chaos.proxy import HOST, reserve_port

RECONNECT_MS = 20
QUEUE = 1_000_000

Frames = list[bytes]


@dataclass(frozen=True, slots=True)
class Weather:
    """Probabilities per batch, and by how many seconds all are late."""

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0


CALM = Weather()


class Shadow:
    """What an engine holds by its own word: keys of blocks of the base model without a cache salt."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._copies: dict[object, int] = {}
        self._keys: dict[object, bytes] = {}
        self._next = 0
        self.complete = True
        """Whether nothing that the engine has said since it started was missed here."""

    @property
    def published(self) -> int:
        """Batches that the engine has published since it started."""
        return self._next

    @property
    def keys(self) -> frozenset[int]:
        """Keys of the blocks held now."""
        return frozenset(int.from_bytes(self._keys[block], "big") for block in self._copies)

    def forget(self) -> None:
        """The engine was killed."""
        self._copies, self._keys, self._next, self.complete = {}, {}, 0, True

    def take(self, sequence: int, payload: bytes) -> None:
        """Take in one batch."""
        if sequence == 0:
            self.forget()
        self.complete = self.complete and sequence == self._next
        self._next = sequence + 1
        for event in msgspec.msgpack.decode(payload)[1]:
            with contextlib.suppress(KeyError):  # only when something was missed
                self._take_event(event)

    def _take_event(self, event: dict) -> None:
        if event["type"] == "AllBlocksCleared":
            self._copies.clear()
        elif event["type"] == "BlockRemoved":
            for block in event["block_hashes"]:
                self._copies[block] -= 1
                if not self._copies[block]:
                    del self._copies[block]
        else:
            parent = event["parent_block_hash"]
            key = self._root if parent is None else self._keys[parent]
            size = event["block_size"]
            for number, block in enumerate(event["block_hashes"]):
                key = block_key(key, pack_tokens(event["token_ids"][number * size : (number + 1) * size]))
                self._keys[block] = key
                self._copies[block] = self._copies.get(block, 0) + 1


class EventsRelay:
    """Receives from an engine's PUB socket and publishes on its own, on a port that stays the same."""

    def __init__(self, context: zmq.asyncio.Context, source: int, shadow: Shadow, seed: str) -> None:
        self.port = reserve_port()
        self.weather = CALM
        self.shadow = shadow
        self.counts = dict.fromkeys(("passed", "dropped", "duplicated", "reordered"), 0)
        self._random = random.Random(seed)
        self._queue: deque[tuple[float, Frames]] = deque()
        self._filled = asyncio.Event()
        self._held: Frames | None = None
        self._sub = context.socket(zmq.SUB)
        self._sub.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._sub.set(zmq.RCVHWM, QUEUE)
        self._sub.subscribe(b"")
        self._sub.connect(f"tcp://{HOST}:{source}")
        self._pub = context.socket(zmq.PUB)
        self._pub.set(zmq.SNDHWM, QUEUE)
        self._pub.bind(f"tcp://{HOST}:{self.port}")

    async def run(self) -> None:
        """Relay until cancelled."""
        sender = asyncio.create_task(self._send())
        try:
            while True:
                frames = await self._sub.recv_multipart()
                self.shadow.take(int.from_bytes(frames[-2], "big"), frames[-1])
                self._blow(frames)
        finally:
            sender.cancel()
            self._sub.close(linger=0)
            self._pub.close(linger=0)

    def engine_killed(self) -> None:
        """What it had said and was still on its way is lost with its connection."""
        self._queue.clear()
        self._held = None
        self.shadow.forget()

    def _blow(self, frames: Frames) -> None:
        weather, chance = self.weather, self._random.random()
        if chance < weather.drop:
            self.counts["dropped"] += 1
            return
        if self._held is None and chance < weather.drop + weather.reorder:
            self.counts["reordered"] += 1
            self._held = frames  # goes out after the next one
            return
        self._put(frames)
        if self._held is not None:
            held, self._held = self._held, None
            self._put(held)
        if self._random.random() < weather.duplicate:
            self.counts["duplicated"] += 1
            self._put(frames)

    def _put(self, frames: Frames) -> None:
        self.counts["passed"] += 1
        self._queue.append((asyncio.get_running_loop().time() + self.weather.delay, frames))
        self._filled.set()

    async def _send(self) -> None:
        while True:
            if not self._queue:
                self._filled.clear()
                await self._filled.wait()
                continue
            due, frames = self._queue[0]
            remaining = due - asyncio.get_running_loop().time()
            if remaining > 0:
                await asyncio.sleep(min(remaining, 0.05))  # the queue may be emptied meanwhile
                continue
            self._queue.popleft()
            await self._pub.send_multipart(frames)
