"""Agents, Redis and a router together against a plain dictionary: who holds which blocks.

Real are `Publication`, the Lua scripts (on the embedded Redis of ``warmroute serve``) and `Follower`. All of
it runs in one event loop whose clock jumps ahead when there is nothing to do: waiting takes no time.
"""

import asyncio
import copy
import selectors
import time
from types import SimpleNamespace

import fakeredis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cluster.errors import FencedError, LeaseLostError, SequenceGapError
from cluster.fleet.fleet import Fleet
from cluster.process.tasks import cancel_and_wait
from cluster.protocol.block_keys import unpack_keys
from cluster.protocol.wire import Lease, Load, ReplicaState
from cluster.sync import follower as follower_module
from cluster.sync.follower import Follower
from tests.cluster.quiet_keys import QuietKeys
from workers.agent.mirror import Change
from workers.agent.publication import Publication
from workers.settings import WorkerSettings

pytestmark = pytest.mark.timeout(400)  # a failure is made small before it is shown

IDS = ("a", "b")
BLOCKS = st.sets(st.integers(1, 12))
FORBIDDEN = 666
"""A block that only an incarnation whose time is over would store."""
SETTINGS = WorkerSettings(heartbeat_seconds=0.5, lease_seconds=30.0)
SETTLE_SECONDS = 10.0


def now():
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


class VirtualSelector(selectors.DefaultSelector):
    """Where a real one would wait, its clock jumps."""

    now = 0.0

    def select(self, timeout=None):
        events = super().select(0)
        if not events:
            assert timeout is not None, "everybody waits for somebody else"
            self.now += max(timeout, 0.0)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self):
        super().__init__(VirtualSelector())

    def time(self):
        return self._selector.now


class AgentOf:
    """The publishing half of one agent, and the mirror it publishes."""

    def __init__(self, redis, replica, owned):
        self.owned = owned
        self.replica = replica
        self.lease = Lease(
            replica=replica, url="http://r", state=ReplicaState.READY, model="m", block_size=16
        )
        self.publication = Publication(
            redis,
            SETTINGS,
            replica,
            lambda: self.owned,
            Load,
        )
        self.publication.begin(self.lease)
        self.task = asyncio.create_task(self.publication.run())

    def change(self, stored, removed, cleared):
        """Change the mirror, and publish the net effect as `workers.agent.mirror` gives it."""
        before = set() if cleared else self.owned
        after = (before - removed) | stored
        self.owned = after
        self.publication.change(Change(frozenset(after - before), frozenset(before - after), cleared))

    async def settle(self):
        """Wait until Redis has it all."""
        deadline = now() + SETTLE_SECONDS
        while not self.publication.is_settled:
            assert not self.task.done(), self.task
            assert now() < deadline, "the agent does not come to rest"
            await asyncio.sleep(0.01)


class OwnershipMachine(RuleBasedStateMachine):
    """Everything that can happen to blocks, messages, Redis, agents and the router."""

    @initialize()
    def begin(self):
        self.patch = pytest.MonkeyPatch()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.patch.setattr(
            follower_module,
            "time",
            SimpleNamespace(**{**vars(time), "monotonic": self.runner.get_loop().time}),
        )
        self.agents: dict[str, AgentOf] = {}
        self.old_writers = []
        self.disturbed = False
        """Whether Redis has lost something, so that agents may have to open new epochs."""
        self.follower_task = None
        self.runner.run(self._begin())

    async def _begin(self):
        self.redis = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(version=(7,)))
        self.keys = SETTINGS.keys
        await self._follow()
        for replica in IDS:
            await self._start(replica, set())

    async def _follow(self):
        if self.follower_task is not None:
            await cancel_and_wait(self.follower_task)
        self.fleet = Fleet()
        self.follower = Follower(self.redis, self.keys, self.fleet, SETTINGS.heartbeat_seconds)
        self.follower_task = asyncio.create_task(self.follower.run())

    def _agent(self, number):
        return self.agents[sorted(self.agents)[number % len(self.agents)]]

    # What agents do

    @rule(replica=st.sampled_from(IDS), owned=BLOCKS)
    def start(self, replica, owned):
        """An agent starts, beside or after another one of the same replica: its epoch replaces the old."""
        self.runner.run(self._start(replica, owned))

    async def _start(self, replica, owned):
        if replica in self.agents:
            await self._crash(replica)
        self.agents[replica] = AgentOf(self.redis, replica, owned)

    async def _crash(self, replica):
        """An agent dies without a word."""
        agent = self.agents.pop(replica)
        await cancel_and_wait(agent.task)
        if agent.publication.epoch:
            self.old_writers.append(copy.copy(agent.publication._writer))
        return agent

    @precondition(lambda self: self.agents)
    @rule(
        number=st.integers(0, 1),
        batches=st.lists(st.tuples(BLOCKS, BLOCKS, st.sampled_from([False, False, False, True])), min_size=1),
        one_by_one=st.booleans(),
        then_settle=st.booleans(),
    )
    def change(self, number, batches, one_by_one, then_settle):
        """The engine stores, evicts and clears; the next rule may come before Redis knows."""
        agent = self._agent(number)
        for stored, removed, cleared in batches:
            agent.change(stored, removed - stored, cleared)
            if one_by_one:
                self.runner.run(agent.settle())
        if then_settle:
            self.settle()

    @precondition(lambda self: self.agents)
    @rule(number=st.integers(0, 1), owned=BLOCKS)
    def new_incarnation(self, number, owned):
        """The engine has started anew: what it held is gone."""
        agent = self._agent(number)
        self.runner.run(agent.settle())
        self.old_writers.append(copy.copy(agent.publication._writer))
        agent.owned = owned
        agent.publication.begin(agent.lease)

    @precondition(lambda self: self.agents)
    @rule(number=st.integers(0, 1))
    def close(self, number):
        """A replica is stopped on purpose."""
        self.runner.run(self._close(self._agent(number)))

    async def _close(self, agent):
        await cancel_and_wait(self.agents.pop(agent.replica).task)
        await agent.publication.close()

    @precondition(lambda self: self.agents)
    @rule(number=st.integers(0, 1))
    def lease_expires(self, number):
        """An agent is gone, and after a while all its keys are."""
        self.runner.run(self._expire(self._agent(number)))

    async def _expire(self, agent):
        await self._crash(agent.replica)
        names = await self.redis.keys(f"*{{{agent.replica}}}*")
        if names:
            await self.redis.delete(*names)

    # What goes wrong

    @precondition(lambda self: self.agents)
    @rule(number=st.integers(0, 1), stored=BLOCKS, removed=BLOCKS, trimmed=st.booleans())
    def message_is_lost(self, number, stored, removed, trimmed):
        """A batch reaches Redis, its message reaches nobody, and perhaps the log does not reach back."""
        self.runner.run(self._change_quietly(self._agent(number), stored, removed - stored, trimmed))

    async def _change_quietly(self, agent, stored, removed, trimmed):
        await agent.settle()
        writer = agent.publication._writer
        writer._keys = QuietKeys(self.keys.prefix)
        agent.change(stored, removed, False)
        await agent.settle()
        writer._keys = self.keys
        if trimmed:
            log = self.keys.log(agent.replica, agent.publication.epoch)
            await self.redis.xtrim(log, maxlen=0, approximate=False)

    @precondition(lambda self: self.agents)
    @rule(number=st.integers(0, 1))
    def batch_is_repeated(self, number):
        """The last batch is sent once more."""
        self.runner.run(self._repeat(self._agent(number)))

    async def _repeat(self, agent):
        await agent.settle()
        writer = copy.copy(agent.publication._writer)
        if hasattr(writer, "_last"):
            try:
                await writer.repeat()
            except (FencedError, LeaseLostError, SequenceGapError):
                assert writer._last.epoch != writer.epoch or not await self._has_lease(agent)

    async def _has_lease(self, agent):
        return bool(await self.redis.exists(self.keys.lease(agent.replica)))

    @precondition(lambda self: self.old_writers)
    @rule(number=st.integers(0, 100), cleared=st.booleans())
    def old_incarnation_writes(self, number, cleared):
        """Whatever an incarnation whose time is over tries is refused."""
        self.runner.run(self._write_late(self.old_writers[number % len(self.old_writers)], cleared))

    async def _write_late(self, writer, cleared):
        agent = self.agents.get(writer._replica)
        if agent is None:
            return  # nobody has taken over: its lease may still be the last one
        await agent.settle()
        with pytest.raises((FencedError, LeaseLostError)):
            await writer.publish([FORBIDDEN], (), cleared)
        with pytest.raises((FencedError, LeaseLostError)):
            await writer.heartbeat(agent.lease, Load(running=FORBIDDEN))
        await writer.close()

    @precondition(lambda self: self.agents)
    @rule(number=st.integers(0, 1), what=st.sampled_from(["everything", "owned", "log", "lease", "load"]))
    def redis_forgets(self, number, what):
        """It starts anew, or a failover or somebody takes a part of what belongs together."""
        agent = self._agent(number)
        self.disturbed = True
        names = {
            "owned": self.keys.owned(agent.replica, agent.publication.epoch),
            "log": self.keys.log(agent.replica, agent.publication.epoch),
            "lease": self.keys.lease(agent.replica),
            "load": self.keys.load(agent.replica),
        }
        self.runner.run(self.redis.delete(names[what]) if what in names else self.redis.flushall())

    @rule()
    def follower_starts_anew(self):
        """A router that knows nothing reads it all."""
        self.runner.run(self._follow())

    @rule(seconds=st.sampled_from([0.0, 0.2, 1.0]))
    def time_passes(self, seconds):
        """Tasks go on, but not to their end."""
        self.runner.run(asyncio.sleep(seconds))

    # What must hold

    @rule()
    def settle(self):
        """Soon router, Redis and dictionary agree, and nothing is left of replicas that are gone."""
        self.runner.run(self._settle())

    async def _settle(self):
        for replica in set(IDS) - self.agents.keys():  # agents that crashed: their leases run out
            names = await self.redis.keys(f"*{{{replica}}}*")
            if names:
                await self.redis.delete(*names)
        for agent in self.agents.values():
            await agent.settle()
        epochs = {replica: agent.publication.epoch for replica, agent in self.agents.items()}
        await asyncio.sleep(2 * SETTINGS.heartbeat_seconds)
        deadline = now() + SETTLE_SECONDS
        while problem := await self._problem():
            assert now() < deadline, problem
            await asyncio.sleep(0.05)
        self.fleet.check_integrity()
        after = {replica: agent.publication.epoch for replica, agent in self.agents.items()}
        assert self.disturbed or after == epochs, "published everything again without need"
        self.disturbed = False

    async def _problem(self):
        for name, task in [
            ("follower", self.follower_task),
            *((a.replica, a.task) for a in self.agents.values()),
        ]:
            assert not task.done(), (name, task)
        expected = {replica: agent.owned for replica, agent in self.agents.items()}
        seen = {
            replica: set(self.fleet.index.owned(known.slot)) for replica, known in self.fleet.replicas.items()
        }
        if seen != expected:
            return f"the router sees {seen}, not {expected}"
        for replica, agent in self.agents.items():
            name = self.keys.owned(replica, agent.publication.epoch)
            stored = set(unpack_keys(b"".join(await self.redis.smembers(name))))
            if not agent.publication.is_settled or stored != agent.owned:
                return f"Redis has {stored} of {replica}, not {agent.owned}"
            if self.fleet.replicas[replica].epoch != agent.publication.epoch:
                return f"the router follows an old epoch of {replica}"
        return ""

    def teardown(self):
        if hasattr(self, "fleet"):
            try:
                self.settle()
            finally:
                self.runner.run(self._end())
                self.runner.close()
                self.patch.undo()

    async def _end(self):
        await cancel_and_wait(self.follower_task, *(agent.task for agent in self.agents.values()))
        await self.redis.aclose()


TestOwnershipMachine = OwnershipMachine.TestCase
