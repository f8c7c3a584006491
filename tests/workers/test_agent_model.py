"""From an engine's block manager over a wire that loses, repeats and forgets to what an agent publishes.

The sockets are played, so that time is, too: a silence and a replay that nobody answers take no time. What
stands between is real: encoding, `KVEventStream`, `Incarnation` and `Mirror`.
"""

import asyncio
from collections import deque
from contextlib import contextmanager
from unittest import mock

import msgspec
import pytest
import zmq
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cluster.protocol.block_keys import Namespace, block_keys
from workers.agent import incarnation as incarnation_module
from workers.agent.incarnation import Incarnation
from workers.engines.engine import EngineDescription, Gauges, ModelNames
from workers.errors import IncarnationOverError
from workers.events import kv_stream
from workers.events.kv_events import EventSource
from workers.events.kv_stream import EventsLost, KVEventStream
from workers.settings import WorkerSettings
from workers.sim.block_manager import BlockManager, TokenChain
from workers.sim.kv_publisher import END_OF_REPLAY, KVEventBatch

pytestmark = pytest.mark.timeout(400)  # a failure is made small before it is shown

SIZE = 2
NUM_BLOCKS = 8
SHORT_BUFFER = 3
LONG_BUFFER = 10_000
LONG_REPLAY = 2
REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 2),  # conversation
        st.integers(1, 4),  # blocks
        st.sampled_from([None, None, "tenant"]),  # cache salt
        st.booleans(),  # cold: computed beside what is cached
        st.booleans(),  # held: goes on
        st.sampled_from([1, 1, 1, 0, 2]),  # copies of its message
    ),
    max_size=5,
)
SOURCE = EventSource(rank=0, endpoint="live", replay_endpoint="replay", topic="kv")
DESCRIPTION = EngineDescription(
    names=ModelNames("m", (), ()),
    model_directory="/model",
    max_model_len=0,
    gauges=Gauges(block_size=SIZE, capacity_blocks=NUM_BLOCKS),
    sources=(SOURCE,),
)


class Wire:
    """The engine's two sockets, and the agent's ends of them. Plays `zmq_socket.connected`."""

    def __init__(self):
        self.answers = True
        self.cut: int | None = None
        """Batches of the next replay that come through; the rest, but not its end, is dropped."""
        self.live: deque[list[bytes]] = deque()
        self.waiting = asyncio.Event()
        """The agent has taken all live batches and waits for the next one."""
        self.wake = asyncio.Event()
        self.clock = 0.0
        self.restart(LONG_BUFFER)

    def restart(self, buffer_steps):
        """Another process publishes: it counts from 0 and has nothing to replay."""
        self.sequence = 0
        self.buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer_steps)
        self.connected = False
        """Whether the agent's subscription has reached this process yet."""
        self.connections = 0

    def connect(self):
        """The agent's subscription, broken by a restart, works again."""
        if not self.connected:
            self.connected = True
            self.connections += 1

    def publish(self, events, copies):
        """Send one batch; 0 copies are a batch lost on its way."""
        self.clock += 1.0
        payload = msgspec.msgpack.encode(KVEventBatch(self.clock, events, 0))
        self.buffer.append((self.sequence, payload))
        if self.connected and copies:
            self.live.extend([[b"kv", self.sequence.to_bytes(8, "big"), payload]] * copies)
            self.wake.set()
        self.sequence += 1

    def replay(self, first):
        """What comes of the answer to a replay."""
        if not self.answers:
            return []
        batches = [
            [b"", b"kv", sequence.to_bytes(8, "big"), payload]
            for sequence, payload in self.buffer
            if sequence >= first
        ]
        cut, self.cut = self.cut, None
        return [*batches[:cut], [b"", b"", END_OF_REPLAY, b""]]

    @contextmanager
    def socket(self, kind, _endpoint, _queue, _topic):
        yield LiveSocket(self) if kind == zmq.SUB else ReplaySocket(self)


class LiveSocket:
    """The agent's SUB socket."""

    def __init__(self, wire):
        self._wire = wire

    async def receive(self, _seconds):
        wire = self._wire
        if not wire.live:
            wire.wake.clear()
            wire.waiting.set()
            await wire.wake.wait()
            wire.waiting.clear()
        return wire.live.popleft() if wire.live else None

    def has_reconnected(self):
        connections, self._wire.connections = self._wire.connections, 0
        return connections > 0


class ReplaySocket:
    """A DEALER socket of one replay."""

    def __init__(self, wire):
        self._wire = wire

    def send(self, frames):
        self._frames = deque(self._wire.replay(int.from_bytes(frames[1], "big")))

    async def receive(self, _seconds):
        return self._frames.popleft() if self._frames else None


class Agent:
    """Follows one process after the other, as `workers.agent.agent` does, and keeps what it published."""

    def __init__(self, wire):
        self._wire = wire
        self.published: set[int] = set()
        self.lost: list[EventsLost] = []

    def mirror_changed(self, change):
        before = set() if change.cleared else self.published
        assert change.removed <= before, "removed something that was not published"
        assert not change.stored & before, "stored something that was published"
        self.published = (before - change.removed) | change.stored

    def mirror_replaced(self):
        self.published = set(self.incarnation.mirror.owned())

    def lease_changed(self):
        pass

    async def run(self):
        def stream(source, limits):
            return KVEventStream(source, limits, self._wire.socket)

        with (
            mock.patch.object(incarnation_module, "KVEventStream", stream),
            mock.patch.object(kv_stream, "LONG_REPLAY", LONG_REPLAY),
        ):
            while True:
                self.lost.clear()
                self.incarnation = Incarnation(None, DESCRIPTION, "f", WorkerSettings(), self)
                self.mirror_replaced()
                with mock.patch.object(self.incarnation, "_lose", self._lose(self.incarnation)):
                    try:
                        await self.incarnation._follow(SOURCE)
                    except IncarnationOverError:
                        continue

    def _lose(self, incarnation):
        lose = incarnation._lose

        def noted(lost, rank):
            self.lost.append(lost)
            lose(lost, rank)

        return noted


class AgentMachine(RuleBasedStateMachine):
    """Requests that share prefixes on a small cache, and everything that happens to events."""

    @initialize(long=st.booleans())
    def begin(self, long):
        self.runner = asyncio.Runner()
        self.runner.get_loop()
        self.buffer_steps = LONG_BUFFER if long else SHORT_BUFFER
        self.runner.run(self._start())

    async def _start(self):
        self.wire = Wire()
        self.agent = Agent(self.wire)
        self.seed = 0
        self._new_process()
        self.wire.connect()
        self.task = asyncio.create_task(self.agent.run())
        await self._quiet()

    def _new_process(self):
        self.seed += 1
        self.events = []
        self.chains: list[TokenChain] = []
        self.keys: dict[int, int] = {}
        self.wire.restart(self.buffer_steps)
        self.manager = BlockManager(NUM_BLOCKS, SIZE, self.seed, self.events.append)

    async def _quiet(self):
        """Wait until the agent has taken what has come."""
        while self.wire.live or not self.wire.waiting.is_set():
            assert not self.task.done(), self.task
            await asyncio.sleep(0)

    async def _silence(self):
        """So long without an event that the agent asks whether one was lost."""
        await self._quiet()
        self.wire.waiting.clear()
        self.wire.wake.set()
        await asyncio.sleep(0)
        await self._quiet()

    @rule(requests=REQUESTS, then_settle=st.booleans())
    def serve(self, requests, then_settle):
        """Requests are computed, one step of the engine each; some go on, and keep their blocks."""
        for request in requests:
            self._compute(*request)
        self.runner.run(self._quiet())
        if then_settle:
            self.settle()

    def _compute(self, conversation, blocks, salt, cold, held, copies):
        """One request, from the cache or (as when two come at once) beside it; then its events go out."""
        tokens = [100 * conversation + position for position in range(blocks * SIZE)]
        chain = TokenChain(tokens, cache_salt=salt)
        hits = self.manager.find_hits(chain, len(tokens))
        if self.manager.grow(chain, len(tokens), () if cold else hits):
            self.chains.append(chain)
            root = Namespace("f", SIZE, "", salt or "").root()
            self.keys.update(zip(chain.hashes, block_keys(root, tokens, SIZE), strict=True))
        if not held:
            self._finish()
        self._publish(copies)

    def _finish(self):
        """Requests end; their blocks stay cached until others need the room."""
        for chain in self.chains:
            self.manager.free(chain)
        self.chains.clear()

    def _publish(self, copies):
        if self.events:
            self.wire.publish(list(self.events), copies)
            self.events.clear()

    @rule(copies=st.sampled_from([1, 0]), then_settle=st.booleans())
    def clear(self, copies, then_settle):
        """The engine's cache is reset."""
        self._finish()
        assert self.manager.clear()
        self._publish(copies)
        if then_settle:
            self.settle()

    @rule(how=st.sampled_from(["cut", "cut", "never", "well"]))
    def replays_are_answered(self, how):
        """Only the beginning of the next one comes through; or nobody answers, until somebody does."""
        self.wire.answers = how != "never"
        self.wire.cut = LONG_REPLAY + 1 if how == "cut" else None

    @rule(unheard=REQUESTS)
    def connection_breaks(self, unheard):
        """What is published in between is lost, and the process is the same afterwards."""
        self.wire.connected = False
        for request in unheard:
            self._compute(*request)
        self.wire.connect()

    @rule(unheard=REQUESTS, connects=st.booleans(), heard=REQUESTS)
    def restart(self, unheard, connects, heard):
        """Another process with an empty cache, and other hashes; the agent may learn of it late, or never."""
        self._new_process()
        for request in unheard:
            self._compute(*request)
        if connects:
            self.wire.connect()
        for request in heard:
            self._compute(*request)
        self.runner.run(self._quiet())

    @rule()
    def settle(self):
        """After a silence the agent publishes what the engine holds, or knows that it does not know."""
        self.runner.run(self._silence())
        incarnation = self.agent.incarnation
        incarnation.mirror.check_integrity()
        assert self.agent.published == incarnation.mirror.owned(), "changes add up to what is held"
        if not self.wire.answers:
            assert not incarnation.believes_events, "nobody can know what was lost"
            return
        assert incarnation.believes_events
        held = {self.keys[block_hash] for block_hash in self.manager._copies}
        assert self.agent.published <= held, "nothing is claimed that the engine does not hold"
        if not self.agent.lost:
            assert self.agent.published == held, "and nothing is missing"

    def teardown(self):
        if hasattr(self, "task"):
            self.wire.answers, self.wire.cut = True, None
            self.settle()
            self.task.cancel()
            self.runner.run(asyncio.wait([self.task]))
            self.runner.close()


TestAgentMachine = AgentMachine.TestCase
