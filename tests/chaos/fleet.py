"""The system under test: Redis, engines, an agent per engine and routers, and every link between them.

Everything runs as a user would start it, only that each is told the address of a `Link` instead of the real
one.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import zmq.asyncio
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cluster.prompts.tokenizer import tokenizer_fingerprint
from cluster.protocol.block_keys import Namespace
from tests.chaos.engine_front import EngineFront
from tests.chaos.events_relay import EventsRelay, Shadow
from tests.chaos.processes import Process, python_module
from tests.chaos.proxy import HOST, Link, ProcessFinder, reserve_port

START_SECONDS = 180.0
BLOCK_SIZE = 16
NUM_BLOCKS = 300
MODEL = "tiny"


class Engine:
    """A simulated engine with its agent and the links around both."""

    def __init__(
        self, number: int, fleet: "Fleet", model: Path, context: zmq.asyncio.Context, seed: int
    ) -> None:
        port, events, replay = reserve_port(), reserve_port(), reserve_port()
        fingerprint = tokenizer_fingerprint(model)
        self.shadow = Shadow(Namespace(fingerprint, BLOCK_SIZE).root())
        self.relay = EventsRelay(context, events, self.shadow, f"{seed}-{number}")
        self.from_routers = Link(f"routers-engine{number}", port, fleet.find_router)
        self.events = Link(f"agent{number}-events", self.relay.port)
        self.replay = Link(f"agent{number}-replay", replay)
        self.front = EngineFront(port, self.events.port, self.replay.port)
        self.from_agent = Link(f"agent{number}-engine", self.front.port)
        self.agent_redis = Link(f"agent{number}-redis", fleet.redis_port)
        self.replay_faults = 0
        """Faults under way that keep the engine from answering replays."""
        self.may_lose = False
        """Whether there was such a fault in the life of these processes: a gap may not have been filled."""
        self.links = [self.from_routers, self.events, self.replay, self.from_agent, self.agent_redis]
        self.replica = f"{HOST}-{self.from_routers.port}"
        self.direct_url = f"http://{HOST}:{port}"
        self.engine = Process(
            f"engine{number}",
            python_module(
                "workers.sim.engine",
                *("--model", str(model), "--served-model-name", MODEL, "--port", str(port)),
                *("--num-blocks", str(NUM_BLOCKS), "--max-model-len", "4096"),
                *("--kv-endpoint", f"tcp://{HOST}:{events}"),
                *("--kv-replay-endpoint", f"tcp://{HOST}:{replay}"),
            ),
            fleet.directory,
        )
        self.agent = Process(
            f"agent{number}",
            python_module(
                "cluster.cli",
                *("agent", "--engine-url", f"http://{HOST}:{self.from_agent.port}"),
                *("--advertise-url", f"http://{HOST}:{self.from_routers.port}"),
                *("--redis-url", f"redis://{HOST}:{self.agent_redis.port}"),
            ),
            fleet.directory,
        )

    async def listen(self) -> None:
        """Open all links; nobody need be behind them."""
        await self.front.listen()
        for link in self.links:
            await link.listen()

    @property
    def engine_links(self) -> list[Link]:
        """Links that are refused while the engine's process does not exist."""
        return [self.from_routers, self.replay, self.from_agent]

    @contextlib.contextmanager
    def without_replay(self) -> Iterator[None]:
        """As long as the context is open, nobody answers replays."""
        self.replay_faults += 1
        self.may_lose = True
        try:
            yield
        finally:
            self.replay_faults -= 1

    def forget_losses(self) -> None:
        """The engine or the agent was killed: what was lost before does not matter any more."""
        self.may_lose = self.replay_faults > 0

    async def close(self) -> None:
        """Close all links."""
        for link in self.links:
            await link.close()
        await self.front.close()


class Router:
    """A router and its link to Redis; its links to engines are known by its process."""

    def __init__(self, number: int, fleet: "Fleet") -> None:
        self.name = f"router{number}"
        self.port = reserve_port()
        self.url = f"http://{HOST}:{self.port}"
        self.redis = Link(f"router{number}-redis", fleet.redis_port)
        self.up = False
        """Whether clients send requests here: from when it is ready until it is killed."""
        self.process = Process(
            self.name,
            python_module(
                "cluster.cli",
                *("router", "--redis-url", f"redis://{HOST}:{self.redis.port}"),
                *("--port", str(self.port)),
            ),
            fleet.directory,
            piped=number % 2 == 0,
        )


class Fleet:
    """All of it. `start` it, then inject; `stop` ends every process that was started here."""

    def __init__(
        self, directory: Path, model: Path, seed: int, num_engines: int = 6, num_routers: int = 3
    ) -> None:
        self.directory = directory
        self.redis_port = reserve_port()
        self.redis_process = Process(
            "redis",
            [
                *("redis-server", "--port", str(self.redis_port), "--bind", HOST),
                *("--save", "", "--appendonly", "no", "--dir", str(directory)),
            ],
            directory,
        )
        self._context = zmq.asyncio.Context()
        self.find_router = ProcessFinder(
            lambda: {r.process.pid: r.name for r in self.routers if r.process.pid}
        )
        self.engines = [Engine(n, self, model, self._context, seed) for n in range(num_engines)]
        self.routers = [Router(n, self) for n in range(num_routers)]
        self.redis = Redis(host=HOST, port=self.redis_port, socket_timeout=2.0)
        self.exit_codes: dict[str, int | None] = {}
        """How each process ended when it was asked to; None when it had to be killed."""
        self._relays: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """For questions to processes; their answers must not wait for traffic."""
        assert self._session is not None, "start it first"
        return self._session

    @property
    def processes(self) -> list[Process]:
        """Every process."""
        return [
            self.redis_process,
            *(engine.engine for engine in self.engines),
            *(engine.agent for engine in self.engines),
            *(router.process for router in self.routers),
        ]

    async def start(self) -> None:
        """Start everything, and wait until every router is ready."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=4)
        )
        self._relays = [asyncio.create_task(engine.relay.run()) for engine in self.engines]
        for engine in self.engines:
            await engine.listen()
        for router in self.routers:
            await router.redis.listen()
        await self.start_redis()
        for engine in self.engines:
            engine.engine.start()
            engine.agent.start()
        for router in self.routers:
            router.process.start()
        await asyncio.gather(*(self.router_ready(router) for router in self.routers))

    async def stop(self) -> None:
        """End everything that was started: routers first, Redis last."""
        for process in self.processes:
            process.resume()
        for some in (
            [router.process for router in self.routers],
            [engine.agent for engine in self.engines],
            [engine.engine for engine in self.engines],
            [self.redis_process],
        ):
            codes = await asyncio.gather(*(asyncio.to_thread(process.end) for process in some))
            self.exit_codes |= {process.name: code for process, code in zip(some, codes, strict=True)}
        for process in self.processes:
            process.close()
        for task in self._relays:
            task.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)
        for engine in self.engines:
            await engine.close()
        for router in self.routers:
            await router.redis.close()
        self._context.destroy(linger=0)
        if self._session is not None:
            await self._session.close()
        with contextlib.suppress(RedisError):
            await self.redis.aclose()

    async def start_redis(self) -> None:
        """Start an empty Redis and wait until it answers."""
        self.redis_process.start()
        await eventually(self._redis_answers, "Redis answers")

    async def start_engine(self, engine: Engine) -> None:
        """Start an engine that was killed; returns once it answers."""
        engine.engine.start()
        await eventually(lambda: self.answers(f"{engine.direct_url}/health"), f"{engine.engine.name} answers")
        for link in engine.engine_links:
            await link.listen()

    async def start_agent(self, engine: Engine) -> None:
        """Start an agent that was killed; returns once it runs."""
        mark = engine.agent.mark()
        engine.agent.start()

        async def runs() -> bool:
            return "agents_started" in engine.agent.log_since(mark)

        await eventually(runs, f"{engine.agent.name} runs")

    async def start_router(self, router: Router) -> None:
        """Start a router that was killed; returns once it answers, before it is ready."""
        router.process.start()
        await eventually(lambda: self.answers(f"{router.url}/healthz"), f"{router.name} answers")

    async def router_ready(self, router: Router) -> None:
        """Wait until a router is ready, and let clients send to it."""
        await eventually(lambda: self.answers(f"{router.url}/readyz"), f"{router.name} ready")
        router.up = True

    def kill_engine(self, engine: Engine) -> None:
        """``kill -9``, and nobody listens at its addresses."""
        engine.engine.kill()
        engine.relay.engine_killed()
        engine.forget_losses()
        for link in engine.engine_links:
            link.refuse()

    async def answers(self, url: str) -> bool:
        """Whether a GET is answered with 200."""
        try:
            async with self.session.get(url) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def _redis_answers(self) -> bool:
        with contextlib.suppress(RedisError, OSError):
            return bool(await self.redis.ping())
        return False


@contextlib.asynccontextmanager
async def running_fleet(directory: Path, model: Path, seed: int) -> AsyncIterator[Fleet]:
    """A fleet that is ended however the context ends."""
    fleet = Fleet(directory, model, seed)
    try:
        await fleet.start()
        yield fleet
    finally:
        await fleet.stop()


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, seconds: float = START_SECONDS, every: float = 0.05
) -> float:
    """Wait until a condition holds and return how long that took. Raises `TimeoutError` that says what did
    not happen."""
    started = time.monotonic()
    while not await condition():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(every)
    return time.monotonic() - started
