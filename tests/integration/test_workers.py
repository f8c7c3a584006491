"""``warmroute router --workers N`` with real processes: one router to the outside, however workers end."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.system import WARMROUTE, System, eventually, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


class Workers:
    """A running command with its worker processes."""

    def __init__(self, system: System, number: int) -> None:
        port = free_port()
        self.system = system
        self.number = number
        self.url = f"http://127.0.0.1:{port}"
        system.afresh = True
        self.process = system.start(
            "router",
            [
                *(*WARMROUTE, "router", "--redis-url", system.redis.url),
                *("--port", str(port), "--workers", str(number)),
            ],
            TMPDIR=str(system.directory),
        )

    def alive(self) -> list[psutil.Process]:
        """The worker processes, in the order of their start."""
        return sorted(psutil.Process(self.process.pid).children(), key=lambda child: child.create_time())

    async def serve(self) -> None:
        """Wait until all of them serve."""

        async def logged() -> bool:
            assert self.process.poll() is None, self.system.log("router")
            return "router_workers_started" in self.system.log("router")

        await eventually(logged, 60, "all workers serve")

    async def ask(self, **fields: Any) -> tuple[int, bytes]:
        """Status and body of a chat request, on a connection of its own."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "why " * 40}], "max_tokens": 2}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
            session.post(f"{self.url}/v1/chat/completions", json={**body, **fields}) as response,
        ):
            return response.status, await response.read()

    async def get(self, path: str) -> bytes:
        """The body of an answer to a new connection, so by any of the workers."""
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return await response.read()

    async def total(self, name: str) -> float:
        """The sum of a metric over its labels."""
        families = text_string_to_metric_families((await self.get("/metrics")).decode())
        return sum(s.value for family in families for s in family.samples if s.name == name)

    async def have_told(self, requests: int) -> None:
        """Wait until each has told the others what it has counted: it does so once a second."""

        async def told() -> bool:
            return await self.total("warmroute_requests_total") == requests

        await eventually(told, 10, f"{requests} requests are counted")

    async def routers(self) -> set[str]:
        """Ids of the routers that answer, asked often enough to meet each."""
        answers = await asyncio.gather(*(self.get("/admin/bookings") for _ in range(24)))
        return {json.loads(answer)["router"] for answer in answers}


StartWorkers = Callable[..., Awaitable[Workers]]


@pytest.fixture
async def start_workers(system: System) -> StartWorkers:
    """Starts an engine, its agent, and a router of several processes that serves."""

    async def start(number: int = 2, *engine_options: str) -> Workers:
        url, _ = await system.start_engine(0, *engine_options)
        system.start_agent(url)
        await eventually(lambda: agent_publishes(system), 20, "the replica is ready")
        workers = Workers(system, number)
        await workers.serve()
        return workers

    return start


async def agent_publishes(system: System) -> bool:
    """Whether there is a lease in Redis."""
    return bool(system.redis.client("KEYS", "warmroute:*"))


async def test_any_worker_answers_for_all(start_workers: StartWorkers) -> None:
    """Metrics and sums are of all workers, whichever is asked, and none counts twice.

    When one is killed the others serve on, a successor comes soon, and counters go on from where they were.
    """
    workers = await start_workers(2)
    outcomes = await asyncio.gather(*(workers.ask() for _ in range(30)))
    assert {status for status, _ in outcomes} == {200}
    routers, [victim, survivor] = await workers.routers(), workers.alive()
    assert len(routers) == 2
    await workers.have_told(30)
    for _ in range(8):
        assert await workers.total("warmroute_requests_total") == 30
        assert await workers.total("warmroute_held_seconds_count") == 30
        assert await workers.total("warmroute_ready_replicas") == 1
        [replica] = json.loads(await workers.get("/admin/replicas"))["replicas"]
        assert (replica["requests"], replica["failures"]) == (30, 0)
        assert replica["prompt_tokens"] == await workers.total("warmroute_prompt_tokens_total") > 0

    async def two() -> bool:
        return len(await workers.routers()) == 2

    victim.kill()
    await asyncio.to_thread(victim.wait, 10)
    after = [await workers.ask() for _ in range(20)]
    assert {status for status, _ in after} == {200}
    await workers.have_told(50)  # what a worker has not told, it takes with it
    await eventually(two, 15, "a successor serves")
    assert len(await workers.routers() & routers) == 1
    assert survivor in workers.alive()
    workers.alive()[-1].kill()
    await eventually(lambda: ended_twice(workers), 10, "it is missed, too")
    await eventually(two, 15, "its successor serves")
    assert await workers.total("warmroute_requests_total") == 50


async def ended_twice(workers: Workers) -> bool:
    """Whether two workers were killed, and the pause before the second restart was longer."""
    lines = workers.system.log("router").splitlines()
    pauses = [json.loads(line)["restart_in_seconds"] for line in lines if "killed by SIGKILL" in line]
    assert pauses in ([0.1], [0.1, 0.2])
    return len(pauses) == 2


async def test_open_streams_end_before_the_workers_do(start_workers: StartWorkers) -> None:
    """SIGTERM to the command lets streams finish at all workers, refuses new connections, and ends with 0;
    no process and no file is left.
    """
    workers = await start_workers(2, "--step-ms", "40")
    streams = [asyncio.ensure_future(workers.ask(stream=True, max_tokens=50)) for _ in range(12)]

    async def all_run() -> bool:
        return await workers.total("warmroute_open_bookings") == 12

    await eventually(all_run, 10, "all streams are open")
    children = workers.alive()
    workers.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.3)
    with pytest.raises(aiohttp.ClientConnectorError):
        await workers.ask()
    for status, body in await asyncio.gather(*streams):
        assert status == 200
        assert body.endswith(b"data: [DONE]\n\n")
        assert b'"error"' not in body
    assert await asyncio.to_thread(workers.process.wait, 15) == 0
    assert not any(child.is_running() for child in children)
    assert not list(workers.system.directory.glob("warmroute-router-*"))


async def test_workers_end_with_their_supervisor(system: System) -> None:
    """Not even kill -9 of the command leaves a worker behind, or its files."""
    workers = Workers(system, 2)
    await workers.serve()
    children = workers.alive()
    assert len(children) == 2
    workers.process.kill()
    workers.process.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=15)
    assert not alive
    assert not list(workers.system.directory.glob("warmroute-router-*"))


async def test_redis_away_at_the_start(system: System) -> None:
    """Without Redis workers serve all the same, after a bounded wait, and say what is wrong."""
    system.redis.stop()
    workers = Workers(system, 2)
    await workers.serve()
    assert json.loads(await workers.get("/healthz"))["status"] == "degraded"


async def test_worker_that_cannot_start_ends_the_command(system: System) -> None:
    """What no restart mends is an error and not a loop."""
    result = await asyncio.to_thread(
        run, "--workers", "2", "--port", "0", "--redis-url", "redis+sentinel://h:1"
    )
    assert result.returncode == 2
    assert "bad Redis URL" in result.stderr
    assert "of the router could not start (exit code 3)" in result.stderr


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """The command, which is expected to end by itself."""
    return subprocess.run(
        [*WARMROUTE, "router", *options], capture_output=True, text=True, check=False, timeout=60
    )
