"""``warmroute serve`` for real: Ray Serve, vLLM on the CPU, the packaged model, Redis, and a real client."""

import asyncio
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from playwright.async_api import async_playwright, expect

from loadtest.studies.conversations import compare, possible_tokens
from tests.integration.apart import Apart
from tests.integration.system import System, eventually, free_port
from tests.process_copies import ROOT

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

BLOCK_SIZE = 128
MODEL = "SmolLM2-135M-Instruct"
START_SECONDS = 400.0
ENGINE_SECRET = "the secret of these engines"
ROUNDS_APART = int(os.environ.get("WARMROUTE_TEST_ROUNDS", "1"))
"""Of ten tries each to find what must not be found."""


class Served:
    """A running ``warmroute serve``."""

    def __init__(self, system: System, *options: str) -> None:
        port = free_port()
        self.system = system
        self.url = f"http://127.0.0.1:{port}"
        self.process = system.start(
            "serve",
            [sys.executable, "-m", "cluster.cli", "serve", "--port", str(port), *options],
            REDIS_URL=system.redis.url,
            WARMROUTE_ENGINE_API_KEY=ENGINE_SECRET,
            WARMROUTE_CACHE_DIR=str(ROOT / ".warmroute"),
            COLUMNS="200",
        )

    async def ready(self) -> None:
        """Wait until it says that everything is up."""

        async def is_up() -> bool:
            assert self.process.poll() is None, self.system.log("serve")
            return "Ctrl-C stops everything" in self.system.log("serve")

        await eventually(is_up, START_SECONDS, "serve is up", every=1.0)

    def descendants(self) -> list[psutil.Process]:
        """All processes below it, and those that were started in its name and have left the tree."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def engine(self, url: str) -> psutil.Process:
        """The process that listens on an engine's port."""
        port = url.rsplit(":", 1)[1]
        return next(
            process
            for process in self.descendants()
            if (line := process.cmdline())[1:2] == ["-m"] and "--port" in line and port in line
        )

    async def replicas(self) -> dict[str, dict[str, Any]]:
        """What the router says of each replica, by URL of its engine."""
        return await self.system.replicas(self.url)

    async def stop(self) -> None:
        """Press Ctrl-C; everything it started must end."""
        below = self.descendants()
        self.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(self.process.wait, 90) == 0, self.system.log("serve")
        _, alive = psutil.wait_procs(below, timeout=5)
        assert not alive


@pytest.fixture
async def served(system: System, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """A system that was started with the options of the test and is ready; it ends with the test."""
    served = Served(system, *request.param)
    await served.ready()
    yield served
    if served.process.poll() is None:
        await served.stop()


@pytest.mark.parametrize("served", [()], indirect=True, ids=["vllm"])
async def test_real_engines_keep_conversations_and_survive_a_kill(served: Served, tmp_path: Path) -> None:
    """Conversations stay on their blocks; kill -9 of an engine loses no request that had not streamed; nobody
    finds what another key has computed, or what was computed before a reset.

    The dashboard shows what vLLM has counted, token for token. The engine comes back with a new epoch and
    owns nothing; agents, Redis and router agree; Ctrl-C leaves no process behind.
    """
    [contestant] = await compare(
        {"warm": served.url}, MODEL, num_conversations=4, num_turns=3, concurrency=2, max_tokens=48, seed=5
    )
    pairs = [pair for c in contestant.conversations for pair in zip(c.turns, c.turns[1:], strict=False)]
    assert all(previous.replica == turn.replica for previous, turn in pairs)
    delivered = sum(turn.cached_tokens for _, turn in pairs)
    assert delivered >= 0.95 * sum(possible_tokens(*pair, BLOCK_SIZE) for pair in pairs)
    checked = served.system.check(served.url)
    assert checked.returncode == 0, checked.stdout

    await _dashboard_agrees(served)
    apart = Apart(served.system, MODEL, tmp_path)
    await apart.start(WARMROUTE_ENGINE_API_KEY=ENGINE_SECRET)
    for _ in range(ROUNDS_APART):
        assert await apart.round() == [0] * 10
    before = await served.replicas()
    victim = next(iter(before))
    begun: dict[int, str] = {}
    killed = asyncio.Event()

    async def one(number: int) -> bytes:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"{number}: tell a long story about a router."}],
            "max_tokens": 150,
            "ignore_eos": True,
            "stream": True,
        }
        url, patience = f"{served.url}/v1/chat/completions", aiohttp.ClientTimeout(total=START_SECONDS)
        async with served.system.session.post(url, json=body, timeout=patience) as response:
            assert response.status == 200, await response.text()
            received = b""
            async for part in response.content.iter_any():
                if not killed.is_set():
                    begun[number] = response.headers["x-warmroute-replica"]
                received += part
            return received

    async def two_begun_on_the_victim() -> bool:
        return list(begun.values()).count(before[victim]["replica"]) >= 2

    requests = [asyncio.ensure_future(one(number)) for number in range(8)]
    await eventually(two_begun_on_the_victim, 60, "streams have begun", every=0.02)
    requests += [asyncio.ensure_future(one(number)) for number in range(8, 14)]
    await asyncio.sleep(0.05)
    served.engine(victim).kill()
    killed.set()
    outcomes = await asyncio.gather(*requests)

    broken = {number for number, received in enumerate(outcomes) if b'"error"' in received}
    assert broken, "no stream was under way on the engine that was killed"
    assert broken <= begun.keys()
    assert all(received.endswith(b"data: [DONE]\n\n") for received in outcomes)
    assert (await served.system.get(f"{served.url}/admin/replicas"))["open_bookings"] == 0

    async def back() -> bool:
        replica = (await served.replicas()).get(victim)
        return bool(replica and replica["state"] == "ready" and replica["epoch"] > before[victim]["epoch"])

    await eventually(back, START_SECONDS, "the killed engine is back", every=1.0)
    assert (await served.replicas())[victim]["owned_blocks"] == 0
    assert served.system.check(served.url).returncode == 0
    await served.stop()


async def _dashboard_agrees(served: Served) -> None:
    """Hit rates, reasons and a browser's page show each engine's own counters."""
    shown: list[dict[str, Any]] = []

    async def counted() -> bool:
        shown[:] = (await served.system.get(f"{served.url}/admin/overview"))["replicas"]
        return all(
            replica["hour"]["prompt_tokens"] == replica["engine"]["prefix_queries"]
            and replica["hour"]["delivered_tokens"] == replica["engine"]["prefix_hits"]
            for replica in shown
        )

    await eventually(counted, 10, f"engines and router count the same: {shown}")
    assert len(shown) == 2
    busy = [replica for replica in shown if replica["hour"]["requests"]]
    assert sum(replica["hour"]["prompt_tokens"] for replica in busy) > 0
    for replica in busy:
        hour = replica["hour"]
        assert sum(hour["misses"].values()) == hour["prompt_tokens"] - hour["delivered_tokens"]
    async with async_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = await browser.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"{served.url}/admin")
        for replica in busy:
            card = page.get_by_role("article", name=f"Replica {replica['replica']}")
            rate = f"{100 * replica['hour']['delivered']:.1f}%"
            await expect(card.get_by_text(rate).first).to_be_visible(timeout=10_000)
        await browser.close()
        assert not complaints


@pytest.mark.parametrize(
    "served", [("--engine", "sim", "--replicas", "3", "--blocks", "500")], indirect=True, ids=["sim"]
)
async def test_simulated_engines_are_served_alike(served: Served) -> None:
    """``--engine sim`` starts the same system without weights, and the command it prints to copy works.

    When it stops, streams end with an error of the router's own: an actor of Ray Serve stops in the same
    steps as a process.
    """
    replicas = await served.replicas()
    assert len(replicas) == 3
    assert {replica["capacity_blocks"] for replica in replicas.values()} == {500}
    assert all(replica["state"] == "ready" for replica in replicas.values())
    direct = f"{next(iter(replicas))}/v1/models"
    async with served.system.session.get(direct) as response:
        assert response.status == 401, "an engine can be reached without the secret"
    printed = next(line for line in served.system.log("serve").splitlines() if line.startswith("  curl "))
    _, url, _, header, _, body = shlex.split(printed)
    headers = dict([header.split(": ")])
    async with served.system.session.post(url, data=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert (await response.json())["choices"][0]["message"]["content"]

    question = {"model": MODEL, "messages": [{"role": "user", "content": "why"}], "max_tokens": 6000}
    async with served.system.session.post(
        f"{served.url}/v1/chat/completions", json={**question, "stream": True}
    ) as response:
        await response.content.readany()
        stopped = asyncio.create_task(served.stop())
        *_, error, done, _ = (await response.read()).split(b"\n\n")
        assert done == b"data: [DONE]"
        assert b"router_stopping" in error
    await stopped


def test_a_taken_port_is_said_before_anything_starts() -> None:
    """When the router's port is taken, serve says so, names the option, and exits with 2 at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = subprocess.run(
            [sys.executable, "-m", "cluster.cli", "serve", "--port", str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert outcome.returncode == 2
    assert "--port" in outcome.stderr
