"""Makes the faults of a round happen, and lifts them."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
from redis.exceptions import RedisError

from cluster.process.bound_child import bound_command
from cluster.process.tasks import cancel_and_wait
from cluster.protocol.wire import Keys
from tests.chaos.events_relay import CALM, Weather
from tests.chaos.faults import Fault, Kind, Round
from tests.chaos.fleet import Engine, Fleet, Router, eventually
from tests.chaos.ledger import Ledger, breaks, path
from tests.chaos.processes import Process, python_module
from tests.chaos.proxy import EVERYBODY, PASS, Behaviour, Link, Mode
from tests.process_copies import ROOT

KEYS = Keys("warmroute")


@dataclass(slots=True)
class Injector:
    """Runs rounds against a fleet and writes into a ledger what is out of order meanwhile."""

    fleet: Fleet
    ledger: Ledger
    restart_seconds: dict[str, list[float]] = field(default_factory=dict)
    """By kind: from the start of a killed process until it answers."""
    _getting_ready: list[asyncio.Task[None]] = field(default_factory=list)

    async def run(self, plan: Round) -> None:
        """Make all faults happen; returns when the last one is lifted."""
        await asyncio.gather(*(self._happen(fault) for fault in plan.faults))

    async def routers_ready(self) -> None:
        """Wait until routers that were killed take requests again."""
        waiting, self._getting_ready = self._getting_ready, []
        await asyncio.gather(*waiting)

    async def _happen(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        engine = self.fleet.engines[fault.engine] if fault.engine >= 0 else self.fleet.engines[0]
        router = self.fleet.routers[fault.router] if fault.router >= 0 else self.fleet.routers[0]
        async with self._fault(fault, engine, router):
            await asyncio.sleep(fault.seconds)

    def _fault(
        self, fault: Fault, engine: Engine, router: Router
    ) -> contextlib.AbstractAsyncContextManager[None]:
        kinds: dict[Kind, Callable[[], contextlib.AbstractAsyncContextManager[None]]] = {
            Kind.KILL_ENGINE: lambda: self._killed_engine(engine),
            Kind.KILL_AGENT: lambda: self._killed_agent(engine),
            Kind.KILL_ROUTER: lambda: self._killed_router(router),
            Kind.KILL_REDIS: self._killed_redis,
            Kind.RESTORE_REDIS: self._restored_redis,
            Kind.STOP_ENGINE: lambda: self._stopped_engine(engine),
            Kind.STOP_AGENT: lambda: self._stopped(engine.agent),
            Kind.STOP_ROUTER: lambda: self._stopped(router.process, router.name),
            Kind.STOP_REDIS: lambda: self._stopped(self.fleet.redis_process),
            Kind.EVENTS_DROP: lambda: _weather(engine, Weather(drop=fault.strength)),
            Kind.EVENTS_DELAY: lambda: _weather(engine, Weather(delay=fault.strength)),
            Kind.EVENTS_DUPLICATE: lambda: _weather(engine, Weather(duplicate=fault.strength)),
            Kind.EVENTS_REORDER: lambda: _weather(engine, Weather(reorder=fault.strength)),
            Kind.EVENTS_MIXED: lambda: _weather(
                engine, Weather(fault.strength / 3, fault.strength / 3, fault.strength / 3, 0.05)
            ),
            Kind.LINK_EVENTS: lambda: _linked(engine.events, fault),
            Kind.LINK_REPLAY: lambda: _replay_linked(engine, fault),
            Kind.LINK_AGENT_ENGINE: lambda: _linked(engine.from_agent, fault),
            Kind.LINK_AGENT_REDIS: lambda: _linked(engine.agent_redis, fault),
            Kind.LINK_ROUTER_REDIS: lambda: _linked(router.redis, fault),
            Kind.LINK_ROUTER_ENGINE: lambda: self._path(engine, fault, router),
            Kind.LINK_ROUTERS_ENGINE: lambda: self._path(engine, fault),
            Kind.TRIM_LOG: lambda: self._at_once(lambda: self._redis_keys("log", engine, self._trim)),
            Kind.DELETE_OWNED: lambda: self._at_once(lambda: self._redis_keys("owned", engine, self._delete)),
            Kind.DELETE_LOG: lambda: self._at_once(lambda: self._redis_keys("log", engine, self._delete)),
            Kind.DELETE_LEASE: lambda: self._at_once(lambda: self._delete(KEYS.lease(engine.replica))),
            Kind.DELETE_MEMBERS: lambda: self._at_once(lambda: self._delete(KEYS.members)),
            Kind.DROP_CLIENTS: lambda: self._at_once(self._drop_clients),
            Kind.FLUSH: lambda: self._at_once(self.fleet.redis.flushall),
            Kind.CLEAR_CACHE: lambda: self._at_once(lambda: self._clear_cache(engine)),
            Kind.FULL_REDIS: self._full_redis,
            Kind.DENY_REDIS: self._denying_redis,
            Kind.SLOW_REDIS: lambda: self._slow_redis(fault.strength / 2),
            Kind.HOSTILE_BODIES: lambda: _hostile_client("bodies", router),
            Kind.HALF_SENT: lambda: _hostile_client("half_sent", router),
            Kind.UNWRITABLE_LOG: router.process.unwritable_log,
        }
        return kinds[fault.kind]()

    def _paths(self, engine: Engine, broken: bool, router: Router | None = None) -> list[str]:
        """Names in the ledger for the ways from routers to an engine."""
        names = [r.name for r in self.fleet.routers if router in (None, r)]
        held_up = [path(name, engine.replica) for name in names]
        return held_up + [breaks(name, engine.replica) for name in names if broken]

    @contextlib.asynccontextmanager
    async def _killed_engine(self, engine: Engine) -> AsyncIterator[None]:
        with self.ledger.out(*self._paths(engine, broken=True)):
            self.fleet.kill_engine(engine)
            yield
            await self._timed("engine", self.fleet.start_engine(engine))

    @contextlib.asynccontextmanager
    async def _killed_agent(self, engine: Engine) -> AsyncIterator[None]:
        engine.agent.kill()
        engine.forget_losses()
        yield
        await self._timed("agent", self.fleet.start_agent(engine))

    @contextlib.asynccontextmanager
    async def _killed_router(self, router: Router) -> AsyncIterator[None]:
        spell = contextlib.ExitStack()
        spell.enter_context(self.ledger.out(router.name))
        router.up = False
        router.process.kill()
        yield
        await self._timed("router", self.fleet.start_router(router))

        async def get_ready() -> None:
            with spell:
                await self.fleet.router_ready(router)

        self._getting_ready.append(asyncio.create_task(self._timed("router until ready", get_ready())))

    @contextlib.asynccontextmanager
    async def _killed_redis(self) -> AsyncIterator[None]:
        self.fleet.redis_process.kill()
        yield
        await self._timed("redis", self.fleet.start_redis())

    @contextlib.asynccontextmanager
    async def _restored_redis(self) -> AsyncIterator[None]:
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self.fleet.redis.save()
        yield
        self.fleet.redis_process.kill()
        await self._timed("redis", self.fleet.start_redis())
        (self.fleet.directory / "dump.rdb").unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def _full_redis(self) -> AsyncIterator[None]:
        await self._publish_to_redis("CONFIG", "SET", "maxmemory", "1")
        yield
        await self._publish_to_redis("CONFIG", "SET", "maxmemory", "0")

    @contextlib.asynccontextmanager
    async def _denying_redis(self) -> AsyncIterator[None]:
        await self._publish_to_redis("ACL", "SETUSER", "default", "-@write")
        yield
        await self._publish_to_redis("ACL", "SETUSER", "default", "+@all")

    @contextlib.asynccontextmanager
    async def _slow_redis(self, seconds: float) -> AsyncIterator[None]:
        """Commands take up to so long."""

        async def slow_down() -> None:
            while True:
                await self._publish_to_redis("CLIENT", "PAUSE", str(int(seconds * 1000)))
                await asyncio.sleep(seconds * 1.1)

        slowing = asyncio.create_task(slow_down())
        try:
            yield
        finally:
            await cancel_and_wait(slowing)
        await self._publish_to_redis("PING")

    async def _publish_to_redis(self, *command: str) -> None:
        """One command, as soon as it is there."""

        async def done() -> bool:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self.fleet.redis.execute_command(*command)
                return True
            return False

        await eventually(done, f"Redis does {' '.join(command)}")

    @contextlib.asynccontextmanager
    async def _stopped(self, process: Process, *out: str) -> AsyncIterator[None]:
        with self.ledger.out(*out):
            process.pause()
            try:
                yield
            finally:
                process.resume()

    @contextlib.asynccontextmanager
    async def _stopped_engine(self, engine: Engine) -> AsyncIterator[None]:
        with engine.without_replay():
            async with self._stopped(engine.engine, *self._paths(engine, broken=False)):
                yield

    @contextlib.asynccontextmanager
    async def _path(self, engine: Engine, fault: Fault, router: Router | None = None) -> AsyncIterator[None]:
        with self.ledger.out(*self._paths(engine, fault.mode == Mode.CUT, router)):
            async with _linked(engine.from_routers, fault, router.name if router else EVERYBODY):
                yield

    @contextlib.asynccontextmanager
    async def _at_once(self, action: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
        with contextlib.suppress(RedisError, OSError, TimeoutError, aiohttp.ClientError):
            await action()
        yield

    async def _redis_keys(
        self, what: str, engine: Engine, action: Callable[[str], Awaitable[object]]
    ) -> None:
        epoch = await self.fleet.redis.hget(KEYS.lease(engine.replica), "epoch")
        if epoch is not None:
            name = KEYS.log if what == "log" else KEYS.owned
            await action(name(engine.replica, int(epoch)))

    async def _trim(self, key: str) -> None:
        await self.fleet.redis.xtrim(key, maxlen=0, approximate=False)

    async def _delete(self, key: str) -> None:
        await self.fleet.redis.delete(key)

    async def _drop_clients(self) -> None:
        for kind in ("normal", "pubsub"):
            await self.fleet.redis.execute_command("CLIENT", "KILL", "TYPE", kind)

    async def _clear_cache(self, engine: Engine) -> None:
        async with self.fleet.session.post(f"{engine.direct_url}/reset_prefix_cache"):
            pass

    async def _timed(self, kind: str, work: Awaitable[object]) -> None:
        began = time.monotonic()
        await work
        self.restart_seconds.setdefault(kind, []).append(time.monotonic() - began)


@contextlib.asynccontextmanager
async def _hostile_client(kind: str, router: Router) -> AsyncIterator[None]:
    """A client in a process of its own, which this one's traffic does not wait for."""
    command = python_module("tests.chaos.hostile_client", kind, str(router.port))
    client = await asyncio.create_subprocess_exec(*bound_command(command, signal.SIGKILL), cwd=ROOT)
    try:
        yield
    finally:
        client.kill()
        await client.wait()


@contextlib.asynccontextmanager
async def _weather(engine: Engine, weather: Weather) -> AsyncIterator[None]:
    engine.relay.weather = weather
    try:
        yield
    finally:
        engine.relay.weather = CALM


@contextlib.asynccontextmanager
async def _linked(link: Link, fault: Fault, origin: str = EVERYBODY) -> AsyncIterator[None]:
    link.behave(Behaviour(Mode(fault.mode), fault.strength), origin)
    try:
        yield
    finally:
        link.behave(PASS, origin)


@contextlib.asynccontextmanager
async def _replay_linked(engine: Engine, fault: Fault) -> AsyncIterator[None]:
    with engine.without_replay():
        async with _linked(engine.replay, fault):
            yield
