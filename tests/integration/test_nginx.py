"""Routers behind nginx, with the configuration that users copy: restarted one after the other, tokens as they
come.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from itertools import cycle, pairwise
from pathlib import Path

import aiohttp
import pytest

from tests.integration.system import WARMROUTE, System, end, eventually, free_port
from tests.process_copies import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
CONFIGURATION = ROOT / "infra" / "nginx" / "warmroute.conf"
SURROUNDINGS = """\
daemon off;
worker_processes 1;
{user}
pid {folder}/pid;
error_log {folder}/nginx-error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/warmroute.conf;
}}
"""
REQUESTS_PER_SECOND = 50
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "why"}]}


class Front:
    """Three routers, and nginx in front of them."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.ports = [free_port() for _ in range(3)]
        self.routers: dict[int, subprocess.Popen[bytes]] = {}
        self.url = f"http://127.0.0.1:{free_port()}"

    async def start_routers(self, *ports: int) -> None:
        """Returns when they are ready."""
        for port in ports:
            command = [*WARMROUTE, "router", "--redis-url", self.system.redis.url, "--port", str(port)]
            self.routers[port] = self.system.start("router", command, WARMROUTE_READY_SECONDS="30")
        for port in ports:
            ready = f"http://127.0.0.1:{port}/readyz"
            await eventually(lambda ready=ready: self.system.answers(ready), 60, "router ready")

    async def start_nginx(self, folder: Path) -> None:
        """Returns when a router answers behind it."""
        assert NGINX is not None
        self.configure(folder)
        self.system.start("nginx", [NGINX, "-c", str(folder / "nginx.conf"), "-e", str(folder / "early.log")])
        await eventually(lambda: self.system.answers(f"{self.url}/readyz"), 20, "nginx answers")

    def configure(self, folder: Path) -> None:
        """The users' configuration, with the addresses of this test."""
        text = CONFIGURATION.read_text().replace("listen 80;", f"listen {self.url.rpartition('/')[2]};")
        for number, port in enumerate(self.ports, start=1):
            text = text.replace(f"server 10.0.0.{number}:8000", f"server 127.0.0.1:{port}")
        folder.mkdir()
        (folder / "warmroute.conf").write_text(text)
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(SURROUNDINGS.format(folder=folder, user=user))


@pytest.fixture
async def front(system: System, tmp_path: Path) -> Front:
    """All of them, ready."""
    if NGINX is None:
        pytest.skip("no nginx on the PATH: python3 infra/setup.py --with nginx")
    engine, _ = await system.start_engine(0, "--step-ms", "10")
    system.start_agent(engine)
    front = Front(system)
    await front.start_routers(*front.ports)
    await front.start_nginx(tmp_path / "nginx")
    return front


async def ask(session: aiohttp.ClientSession, url: str, stream: bool) -> str:
    """What came of one request."""
    body = {**ASK, "max_tokens": 8, "stream": stream}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        return repr(error)
    complete = text.endswith("data: [DONE]\n\n") and '"error"' not in text if stream else '"usage"' in text
    return "answered" if response.status == 200 and complete else f"{response.status}: {text[:200]}"


async def tokens_come_one_by_one(front: Front) -> None:
    """Nothing is gathered on the way: the client has the first event long before the last one is made."""
    body = {**ASK, "max_tokens": 100, "stream": True}
    times = []
    async with front.system.session.post(f"{front.url}/v1/chat/completions", json=body) as response:
        assert "x-accel-buffering" not in response.headers  # nginx has acted on it
        async for line in response.content:
            if line.startswith(b"data: {"):
                assert json.loads(line.removeprefix(b"data: "))["choices"]
                times.append(time.monotonic())
    assert len(times) > 100
    assert times[-1] - times[0] > 0.5
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert max(pauses) < 0.5 * (times[-1] - times[0])


async def test_rolling_restart(front: Front) -> None:
    """Streams come as their tokens are made; and of 50 requests a second, streamed or not, none fails while
    one router after the other is stopped and started again.
    """
    await tokens_come_one_by_one(front)
    outcomes: Counter[str] = Counter()
    stopped = asyncio.Event()

    async def load() -> None:
        timeout = aiohttp.ClientTimeout(total=60)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            asyncio.TaskGroup() as requests,
        ):
            due = time.monotonic()
            for stream in cycle((True, False)):
                if stopped.is_set():
                    break
                task = requests.create_task(ask(session, front.url, stream))
                task.add_done_callback(lambda done: outcomes.update([done.result()]))
                due += 1 / REQUESTS_PER_SECOND
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    loading = asyncio.create_task(load())
    began = time.monotonic()
    await asyncio.sleep(0.5)
    for port in front.ports:
        front.routers[port].send_signal(signal.SIGTERM)
        await asyncio.to_thread(end, front.routers[port])
        await front.start_routers(port)
    await asyncio.sleep(0.5)
    stopped.set()
    seconds = time.monotonic() - began
    await loading
    assert set(outcomes) == {"answered"}, outcomes
    assert outcomes.total() > 0.9 * REQUESTS_PER_SECOND * seconds
