"""Anthropic's and OpenAI's packages for Python and Node: all of Messages and Responses that agents use."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.clients.install import FOLDER, NODE_MODULES, is_installed
from tests.clients.reporting import ARGUMENTS
from tests.conformance.vllm_engine import vllm_engine
from tests.integration.system import System

HERE = Path(__file__).parent
CASES = 12
"""At least so many are in each script."""

pytestmark = [pytest.mark.timeout(900)]
needs_node = pytest.mark.skipif(not is_installed(NODE_MODULES), reason="python -m tests.clients.install")


@pytest.fixture
async def system(tmp_path: Path, tiny_model: Path) -> AsyncIterator[System]:
    """Nothing but a Redis at first."""
    async with aiohttp.ClientSession() as session:
        system = System(tmp_path, tiny_model, session)
        try:
            system.redis.start()
            yield system
        finally:
            system.stop()


async def start_router(system: System, *engines: str) -> str:
    """A router before these engines, which keeps responses."""
    system.start_agent(*engines)
    return await system.start_router(
        WARMROUTE_STORED_RESPONSES="redis", WARMROUTE_STORED_KEYS="a secret of the routers"
    )


async def use(system: System, router: str, language: str) -> None:
    """Run a language's script; every case works, and all prompts were exact."""
    command: list[str | Path] = [sys.executable, HERE / "use_agents.py"]
    if language == "node":
        for path in (HERE / "node").glob("*.mjs"):
            shutil.copy(path, FOLDER)
        command = ["node", FOLDER / "use_agents.mjs"]
    process = await asyncio.create_subprocess_exec(
        *command, router, "tiny", stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=system.directory
    )
    output, complaints = await process.communicate()
    said = [json.loads(line) for line in output.splitlines() if line.startswith(b'{"case"')]
    assert process.returncode == 0, complaints.decode()
    assert len(said) >= CASES, complaints.decode()
    assert not [one for one in said if one["said"] != "ok"]
    assert "prompt_tokens_differed" not in system.log("router")


@pytest.mark.parametrize(
    "language",
    [
        pytest.param("python", marks=pytest.mark.integration),
        pytest.param("node", marks=[pytest.mark.clients, needs_node]),
    ],
)
async def test_simulated_engines(system: System, language: str) -> None:
    """Two of them; tools are called by their script."""
    calls = system.directory / "script.json"
    calls.write_text(json.dumps([{"name": "find", "arguments": ARGUMENTS}]))
    engines = [await system.start_engine(0, "--script", str(calls)) for _ in range(2)]
    await use(system, await start_router(system, *(url for url, _ in engines)), language)


@pytest.mark.clients
@pytest.mark.vllm
async def test_real_engine(system: System) -> None:
    """The small model, which is made to call the tool; Node's packages too where they are installed."""
    with vllm_engine(system.directory / "vllm.log", "--block-size", "32", names=["tiny"]) as port:
        router = await start_router(system, f"http://127.0.0.1:{port}")
        await use(system, router, "python")
        if is_installed(NODE_MODULES):
            await use(system, router, "node")
