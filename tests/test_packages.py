"""What `pip install` brings: each extra alone is enough for its command, and what we lean on is there."""

import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest

from tests.redis_process import free_port
from tests.test_setup import setup

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

PRIVATE = {
    "uvicorn": [
        "uvicorn._types:ASGIReceiveEvent",
        "uvicorn._types:ASGISendEvent",
        "uvicorn.protocols.http.flow_control:FlowControl.resume_reading",
        "uvicorn.protocols.http.httptools_impl:STATUS_LINE",
        "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.on_message_begin",
        "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.on_headers_complete",
        "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.receive",
        "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.send",
    ],
    "prometheus-client": [
        "prometheus_client.values:ValueClass",
        "prometheus_client.values:MultiProcessValue",
        "prometheus_client.multiprocess:mark_process_dead",
    ],
    "transformers": ["transformers.utils.chat_template_utils:_compile_jinja_template"],
    "redis": [
        "redis.asyncio.cluster:NodesManager",
        "redis.asyncio.cluster:ClusterNode.disconnect_free_connections",
        "redis.asyncio.sentinel:SentinelConnectionPool.aclose",
    ],
    "fakeredis": [
        "fakeredis._clients._sync:FakeRedisConnection",
        "fakeredis._clients._tcp_server:encode_reply",
    ],
}
"""By distribution, interfaces that we use and that it does not promise: a new version may lack them."""

STARTS = {
    "": [["warmroute", "--help"], ["warmroute", "check", "--help"], ["warmroute", "top", "--help"]],
    "router": [["warmroute", "router", "--port", "{port}"]],
    "worker": [
        ["python", "-m", "workers.sim.engine", "--model", "{model}", "--port", "{port}"],
        ["warmroute", "agent", "--help"],
    ],
    "cluster": [["warmroute", "serve", "--help"]],
    "loadtest": [
        ["warmroute", "doctor", "--help"],
        ["warmroute", "loadtest", "--help"],
        ["warmroute", "replay", "--help"],
    ],
    "tracing": [["warmroute", "--help"]],
}
"""Commands that each extra is for. One that is given a port listens there and goes on."""


@pytest.mark.parametrize("distribution", PRIVATE)
def test_private_interfaces_are_there_and_bounded(distribution):
    """A version that has not been tried is not installed, as it may have changed what it does not promise."""
    for name in PRIVATE[distribution]:
        module, _, attributes = name.partition(":")
        found = importlib.import_module(module)
        for attribute in attributes.split("."):
            assert hasattr(found, attribute), name
            found = getattr(found, attribute)
    extras = PROJECT["optional-dependencies"].values()
    required = [*PROJECT["dependencies"], *(need for extra in extras for need in extra)]
    bounds = [need for need in required if need.partition(">")[0].partition("[")[0] == distribution]
    assert bounds
    assert all("<" in need for need in bounds), bounds


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as users get it."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in ("cluster", "loadtest", "policies", "router", "workers"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        source,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture
def install(tmp_path, wheel):
    """Installs the wheel with an extra, and nothing else, in the versions of the lock file."""

    def installed(extra):
        target = f"{wheel}[{extra}]" if extra else wheel
        configured = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
        )
        environment = {**os.environ, **setup.uv_settings(configured.stdout)}
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "env"], check=True)
        command = [UV, "pip", "install", "--quiet", "--python", tmp_path / "env", target]
        constraints = ["--constraint", ROOT / "infra" / "lock" / "cpu.txt"]
        subprocess.run([*command, *constraints], check=True, env=environment, timeout=150)
        return tmp_path / "env" / "bin"

    return installed


@pytest.mark.integration
@pytest.mark.timeout(240)
@pytest.mark.parametrize("extra", STARTS)
def test_each_extra_alone_is_enough_for_its_commands(extra, install, tmp_path, tiny_model):
    """In a clean environment each command starts: it shows its options, or listens where it was asked to."""
    folder = install(extra)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(tmp_path), "NUMBA_DISABLE_JIT": "1"}
    for command in STARTS[extra]:
        port = free_port()
        words = [word.format(port=port, model=tiny_model) for word in command]
        words[0] = str(folder / words[0])
        process = subprocess.Popen(
            words, env=environment, cwd=tmp_path, stdout=PIPE, stderr=STDOUT, text=True
        )
        try:
            if "{port}" in command:
                listens = wait_until_listening(process, port)
                assert listens, process.communicate()[0]
            else:
                output, _ = process.communicate(timeout=60)
                assert process.returncode == 0, output
        finally:
            process.terminate()
            process.communicate(timeout=30)


def wait_until_listening(process, port, seconds=60.0):
    """Whether it listens there before it ends."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
        time.sleep(0.1)
    return False
