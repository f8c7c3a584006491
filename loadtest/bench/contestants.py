"""The routers under test, each with engines of its own, all started once and kept for the whole run.

A router has one core to itself while it is measured, since the others idle; engines, Redis and the load
generator share the other one.
"""

import asyncio
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from loadtest.bench.client import Client, Reply, RequestFailedError
from loadtest.bench.prompts import Conversations, Tag
from loadtest.harness.processes import ROOT, Processes, RedisServer, eventually, free_ports

NUM_ENGINES = 4
ENGINE_SECONDS = 20.0
READY_SECONDS = 90.0
DIRECT = "direct"
"""No router: the load goes straight to one engine."""
EXPECTED = b"x-warmroute-expected-cached-tokens"
REFERENCE = "smg-cache-aware"
PEERS: dict[str, tuple[str, ...]] = {
    REFERENCE: ("smg", "launch", "--log-level", "warn", "--policy", "cache_aware"),
    "smg-prefix-hash": ("smg", "launch", "--log-level", "warn", "--policy", "prefix_hash"),
    "vllm-router-round-robin": ("vllm-router", "--log-level", "warning", "--policy", "round_robin"),
    "vllm-router-cache-aware": ("vllm-router", "--log-level", "warning", "--policy", "cache_aware"),
}
"""Program and options by name."""
DEFAULT_PEERS = ROOT / ".warmroute/bench-venv"
PEER_PACKAGES = ("vllm-router==0.1.17", "smg==1.13.*")


@dataclass(slots=True)
class Contestant:
    """One router, or none at all."""

    name: str
    port: int
    process: "subprocess.Popen[bytes] | None" = None
    """The router's; None for `DIRECT`."""
    is_warmroute: bool = False
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(self.port)

    def cpu_seconds(self) -> float:
        """User and system time of the router and its children since they started."""
        return sum(float(times.user + times.system) for times in (p.cpu_times() for p in self._tree()))

    def resident_bytes(self) -> int:
        """Resident memory of the router and its children; pages they share count once for each."""
        return sum(process.memory_info().rss for process in self._tree())

    def _tree(self) -> "list[psutil.Process]":
        if self.process is None:
            return []
        router = psutil.Process(self.process.pid)
        return [router, *router.children(recursive=True)]


def two_cores() -> tuple[int, int]:
    """The core of the router, and that of everything else."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise SystemExit("the benchmark needs two cores: one for the router, one for the load")
    return available[0], available[1]


def is_open(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def peer_names(peers: Path) -> list[str]:
    """Peers whose programs are installed there."""
    return [name for name, (program, *_) in PEERS.items() if (peers / "bin" / program).exists()]


def install(peers: Path) -> None:
    """Create the peers' own environment; their dependencies never meet Warmroute's."""
    subprocess.run([sys.executable, "-m", "venv", str(peers)], check=True)
    subprocess.run([str(peers / "bin/pip"), "install", "--quiet", *PEER_PACKAGES], check=True)


class Arena:
    """Starts contestants. Pins the calling process to the core of the load."""

    def __init__(self, processes: Processes, model: Path, peers: Path, conversations: Conversations) -> None:
        self._processes = processes
        self._model = model
        self._peers = peers
        self._conversations = conversations
        self._router_core, self._load_core = two_cores()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        os.sched_setaffinity(0, {self._load_core})  # what is started later inherits it

    async def start(self, names: Sequence[str], trees: Sequence[Path]) -> list[Contestant]:
        """Start all at once, and wait until each answers. Names of other trees are their folders'."""
        folders = {"warmroute": ROOT, **{tree.name: tree.resolve() for tree in trees}}
        starts: list[Awaitable[Contestant]] = []
        for name in names:
            if name in folders:
                starts.append(self._warmroute(name, folders[name]))
            elif name in PEERS:
                starts.append(self._peer(name))
            elif name == DIRECT:
                starts.append(self._direct())
            else:
                known = ", ".join([DIRECT, *folders, *PEERS])
                raise SystemExit(f"unknown router {name!r}, choose from {known}")
        contestants = await asyncio.gather(*starts)
        for contestant in contestants:
            await self._wait_until_ready(contestant)
        return contestants

    async def _direct(self) -> Contestant:
        return Contestant(DIRECT, (await self._engines())[0])

    async def _peer(self, name: str) -> Contestant:
        program, *options = PEERS[name]
        ports = await self._engines()
        port, metrics = free_ports(2)
        urls = [f"http://127.0.0.1:{engine}" for engine in ports]
        command = [str(self._peers / "bin" / program), *options, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--prometheus-port", str(metrics), "--worker-urls", *urls]
        return Contestant(name, port, self._router(name, command))

    async def _warmroute(self, name: str, tree: Path) -> Contestant:
        redis = RedisServer(self._processes)
        await redis.start()
        await self._engines(redis.url)
        [port] = free_ports(1)
        command = [str(tree / ".venv/bin/python"), "-m", "cluster.cli", "router", "--redis-url", redis.url]
        command += ["--port", str(port), "--log-level", "warning"]
        return Contestant(name, port, self._router(name, command, PYTHONPATH=str(tree)), is_warmroute=True)

    async def _engines(self, redis_url: str = "") -> list[int]:
        """Ports of new engines that answer: smg looks for them once, and then only half a minute later."""
        ports = free_ports(NUM_ENGINES)
        command = [sys.executable, "-m", "loadtest.bench.engine", str(self._model)]
        command += [str(ports[0]), str(len(ports)), *([redis_url] if redis_url else [])]
        self._processes.start("engines", command)

        async def listening() -> bool:
            self._processes.check()
            return all(is_open(port) for port in ports)

        await eventually(listening, ENGINE_SECONDS, "the engines listen")
        return ports

    def _router(self, name: str, command: Sequence[str], **environment: str) -> "subprocess.Popen[bytes]":
        process = self._processes.start(name, command, **environment)
        os.sched_setaffinity(process.pid, {self._router_core})  # before it counts its cores
        return process

    async def _wait_until_ready(self, contestant: Contestant) -> None:
        async def answers() -> bool:
            self._processes.check()
            return await self._ask(contestant, Tag("start", 0, 0)) is not None

        await eventually(answers, READY_SECONDS, f"{contestant.name} answers", every=0.3)
        await self.check_exact(contestant, "start")

    async def check_exact(self, contestant: Contestant, run: str) -> None:
        """Give up unless a Warmroute finds what its engines hold: the tokens it computes are theirs."""

        async def finds_blocks() -> bool:
            self._processes.check()
            await self._ask(contestant, Tag(run, 0, 0))
            reply = await self._ask(contestant, Tag(run, 0, 1))
            return reply is not None and reply.headers.get(EXPECTED, b"0") != b"0"

        if contestant.is_warmroute:
            what = f"{contestant.name} finds the blocks of a conversation: exact token routing is on"
            await eventually(finds_blocks, READY_SECONDS, what, every=0.3)

    async def _ask(self, contestant: Contestant, tag: Tag) -> Reply | None:
        try:
            return await contestant.client.request(self._conversations.body(tag))
        except RequestFailedError:
            return None
