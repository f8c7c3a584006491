"""Supervised engines: they start, they are restarted, and nothing of them is ever left behind."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workers.engines.commands import EngineOptions, sim_command, vllm_command
from workers.engines.supervisor import EngineCommand, EngineProcess, _BoundedFile
from workers.errors import EngineStartError
from workers.replica import ReplicaOptions, free_port
from workers.settings import WorkerSettings
from workers.sim.settings import read_settings

pytestmark = pytest.mark.integration

ENGINE = """
import http.server, os, signal, subprocess, sys
port, folder, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if mode == "dies":
    print("no such model", flush=True)
    sys.exit(3)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen(["sleep", "300"], start_new_session=mode == "detached")
with open(os.path.join(folder, "pids"), "a") as file:
    file.write(f"{os.getpid()} {worker.pid}\\n")
print("x" * 200_000 if mode == "chatty" else "serving", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if mode == "sick" else 200)
        self.end_headers()
    def log_message(self, *args):
        print("a line of log", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
"""An engine of two processes, which does not look after its worker: as vLLM when its API server is killed."""

PARENT = """
import asyncio, sys
from pathlib import Path
from workers.settings import WorkerSettings
from workers.engines.supervisor import EngineCommand, EngineProcess
async def main():
    command = EngineCommand([sys.executable, *sys.argv[2:]], {}, sys.argv[1])
    engine = EngineProcess(command, WorkerSettings(stop_seconds=1), Path(sys.argv[4], "log"))
    await engine.start()
    print("healthy", engine.pid, flush=True)
    await engine.keep_running()
asyncio.run(main())
"""


@pytest.fixture
def quick() -> WorkerSettings:
    """Everything quick."""
    return WorkerSettings(
        stop_seconds=1.0,
        start_seconds=5.0,
        restart_pause_seconds=0.01,
        restart_limit=2,
        engine_timeout_seconds=0.5,
    )


class Bench:
    """Makes engines, and knows all their processes."""

    def __init__(self, folder: Path, settings: WorkerSettings) -> None:
        self.folder, self.settings = folder, settings
        self.script = folder / "engine.py"
        self.script.write_text(ENGINE)
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        self.ended: list[str] = []
        self.said: list[str] = []

    def arguments(self, mode: str) -> list[str]:
        return [str(self.script), str(self.port), str(self.folder), mode]

    def engine(self, mode: str = "good") -> EngineProcess:
        command = EngineCommand([sys.executable, *self.arguments(mode)], {"MODE": mode}, self.url)
        return EngineProcess(command, self.settings, self.folder / "log", self.said.append, self.ended.append)

    def pids(self) -> list[list[int]]:
        """Process ids of API server and worker, for each start."""
        file = self.folder / "pids"
        lines = file.read_text().splitlines() if file.exists() else []
        return [[int(pid) for pid in line.split()] for line in lines]

    def times_healthy(self) -> int:
        """How often an engine was reported to have become healthy."""
        return sum(" is healthy " in text for text in self.said)

    def alive(self) -> list[int]:
        """Those that still run."""
        return [pid for pids in self.pids() for pid in pids if _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def bench(tmp_path, quick):
    """An empty bench; whatever a failing test leaves is killed."""
    bench = Bench(tmp_path, quick)
    yield bench
    for pid in bench.alive():
        os.kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def _kept_running(engine: EngineProcess):
    await engine.start()
    task = asyncio.create_task(engine.keep_running())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.stop()


@pytest.mark.parametrize("mode", ["good", "stubborn", "detached"])
async def test_stop_leaves_nothing(bench, mode):
    """Not when the engine ignores SIGTERM, and not when its worker has a session of its own."""
    engine = bench.engine(mode)
    await engine.start()
    assert bench.times_healthy() == 1
    assert len(bench.alive()) == 2
    await engine.stop()
    await engine.stop()
    assert bench.alive() == []


@pytest.mark.parametrize("mode", ["good", "detached"])
async def test_a_killed_engine_is_restarted(bench, eventually, mode):
    """`on_end` hears of it at once, its orphans are killed, and a new process becomes healthy."""
    engine = bench.engine(mode)
    async with _kept_running(engine):
        ((api, worker),) = bench.pids()
        os.kill(api, signal.SIGKILL)
        await eventually(lambda: bench.ended)
        assert "exit 137" in bench.ended[0]
        assert not _is_alive(worker)
        await eventually(lambda: bench.times_healthy() == 2)
        assert engine.restarts == 1
    assert bench.alive() == []


async def test_nothing_outlives_a_killed_guardian(bench, eventually):
    """The engine ends with its guardian, and is started again."""
    engine = bench.engine()
    async with _kept_running(engine):
        os.kill(engine.pid, signal.SIGKILL)
        await eventually(lambda: bench.times_healthy() == 2)
        assert bench.alive() == bench.pids()[1]


async def test_nothing_outlives_a_killed_parent(bench, eventually):
    """`kill -9` of the process that supervises ends API server and worker."""
    parent = _start_parent(bench)
    try:
        line = await asyncio.to_thread(parent.stdout.readline)
        assert line.startswith("healthy")
        assert len(bench.alive()) == 2
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    await eventually(lambda: bench.alive() == [])
    await eventually(lambda: not _is_alive(int(line.split()[1])))


def _start_parent(bench: Bench) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", PARENT, bench.url, *bench.arguments("good")]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


async def test_an_engine_that_dies_at_start_says_why(bench):
    """The error has its exit code and its last lines."""
    engine = bench.engine("dies")
    with pytest.raises(EngineStartError, match=r"(?s)exit 3.*no such model"):
        await engine.start()
    assert bench.alive() == []


async def test_an_engine_that_never_gets_healthy_is_stopped(bench):
    """After the limit nothing of it is left."""
    bench.settings = bench.settings.model_copy(update={"start_seconds": 0.5})
    with pytest.raises(EngineStartError, match="not healthy"):
        await bench.engine("sick").start()
    assert bench.alive() == []
    assert "starts" in bench.said[0]


async def test_restarts_are_bounded(bench, eventually):
    """An engine that keeps dying is given up, with its last words."""
    engine = bench.engine()
    async with _kept_running(engine) as task:
        bench.script.write_text("print('broken for good'); raise SystemExit(4)")
        os.kill(bench.pids()[0][0], signal.SIGKILL)
        with pytest.raises(EngineStartError, match=r"(?s)given up after 2 restarts.*broken for good"):
            await asyncio.wait_for(asyncio.shield(task), 10)


async def test_logs_are_bounded(bench, eventually):
    """Long lines do not hang the engine, and a large file is put aside."""
    bench.settings = bench.settings.model_copy(update={"engine_log_megabytes": 0.1})
    engine = bench.engine("chatty")
    async with _kept_running(engine):
        aside = bench.folder / "log.1"
        await eventually(aside.exists)
        assert (bench.folder / "log").stat().st_size <= 100_000


def test_nobody_else_knows_or_reads_the_logs(tmp_path):
    """Their folder has another name each time, and is its owner's alone, also where it has to be made."""
    settings = WorkerSettings()
    made = [ReplicaOptions("sim", EngineOptions("m"), settings).log_directory for _ in range(2)]
    assert made[0] != made[1]
    file = _BoundedFile(tmp_path / "logs" / "a", 100)
    file.write(b"made with its first line\n")
    file.close()
    for folder in (*made, tmp_path / "logs"):
        assert folder.stat().st_mode & 0o777 == 0o700
    for folder in made:
        folder.rmdir()


def test_the_command_line_of_the_simulated_engine(tmp_path):
    """It is one that the simulated engine understands, with the key in the environment."""
    options = EngineOptions(
        model=str(tmp_path), served_model_name="m", max_model_len=256, num_blocks=64, block_size=8
    )
    command = sim_command(options, "127.0.0.1", 8100, Path("/tmp/s"), "secret")
    _, module, name, *arguments = command.arguments
    read = read_settings(arguments)
    assert (module, name) == ("-m", "workers.sim.engine")
    assert (read.port, read.engines, read.block_size, read.num_blocks, read.max_model_len) == (
        8100,
        1,
        8,
        64,
        256,
    )
    assert (read.kv_endpoint, read.kv_replay_endpoint) == ("ipc:///tmp/s/events", "ipc:///tmp/s/replay")
    assert (read.served_model_name, read.model) == ("m", tmp_path)
    assert "secret" not in " ".join(command.arguments)
    assert command.environment["WARMROUTE_SIM_API_KEY"] == "secret"
    assert command.url == "http://127.0.0.1:8100"


def test_the_command_line_of_vllm(tmp_path):
    """The key is in the environment only, events go over UNIX sockets, and further arguments come last."""
    options = EngineOptions(
        model=str(tmp_path),
        served_model_name="m",
        max_model_len=2048,
        num_blocks=60,
        extra_arguments=("--x", "1"),
    )
    command = vllm_command(options, "127.0.0.1", 8100, Path("/tmp/s"), "secret")
    line = " ".join(command.arguments)
    assert "secret" not in line
    assert command.environment["VLLM_API_KEY"] == "secret"
    assert command.environment["HF_HUB_OFFLINE"] == "1"
    assert command.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    events = json.loads(command.arguments[command.arguments.index("--kv-events-config") + 1])
    assert (events["endpoint"], events["replay_endpoint"]) == ("ipc:///tmp/s/events", "ipc:///tmp/s/replay")
    assert "--num-gpu-blocks-override 60" in line
    assert "--enforce-eager" in line
    assert line.endswith("--x 1")
    assert command.url == "http://127.0.0.1:8100"


def test_the_command_line_for_a_gpu():
    """Without the settings that are for CPUs, and with the key unset when there is none."""
    options = EngineOptions(model="org/model", on_cpu=False)
    command = vllm_command(options, "10.0.0.1", 8100, Path("/tmp/s"), "")
    assert "--enforce-eager" not in command.arguments
    assert not {"VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS", "VLLM_API_KEY", "HF_HUB_OFFLINE"} & set(
        command.environment
    )


def test_socket_paths_have_a_limit():
    """A folder that the kernel cannot bind in is refused before the engine starts."""
    with pytest.raises(ValueError, match="too long"):
        vllm_command(EngineOptions(model="m"), "127.0.0.1", 1, Path("/tmp", "x" * 120), "")


@pytest.mark.parametrize("place", ["/dev/full", "/dev/null/log"], ids=["full disk", "no directory"])
async def test_engine_goes_on_when_its_log_cannot_be_written(bench, place):
    """Its output is read all the same: an engine with a full pipe would come to a halt."""
    engine = EngineProcess(
        EngineCommand([sys.executable, *bench.arguments("chatty")], {}, bench.url),
        bench.settings,
        Path(place),
    )
    await engine.start()
    try:
        assert "a line of log" in engine.tail
    finally:
        await engine.stop()
