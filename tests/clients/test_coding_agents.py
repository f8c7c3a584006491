"""Command line agents that speak Messages and Responses, against a router: one task of six model calls each.

Simulated engines answer with calls of a tool by a script, then in words.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from tests.clients.install import NODE_MODULES, is_installed
from tests.integration.system import System

STEPS = 5
TASK = "Run the five steps, please."
BLOCK_SIZE = 16
LARGE = (
    *("--num-blocks", "40000", "--max-model-len", "600000", "--max-num-batched-tokens", "16384"),
    *("--prefill-rate", "200000", "--step-ms", "5", "--answer-tokens", "16"),
)
"""Their prompts have ten thousand tokens and more, and they ask for long answers."""
CODEX_CONFIG = """\
model = "tiny"
model_provider = "warmroute"
[model_providers.warmroute]
name = "warmroute"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
"""

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not is_installed(NODE_MODULES), reason="python -m tests.clients.install"),
]


async def run_agent(
    system: System, command: list[str | Path], call: dict[str, object], **environment: str
) -> list[dict[str, object]]:
    """Let an agent do its task; return what the router remembers of its requests, in order. In a command and
    in the environment ``URL`` is the router's.
    """
    script = system.directory / "script.json"
    script.write_text(json.dumps([call] * STEPS))
    engines = [await system.start_engine(0, "--script", str(script), *LARGE) for _ in range(2)]
    system.start_agent(*(url for url, _ in engines))
    router = await system.start_router()
    home = system.directory / "home"
    (home / ".codex").mkdir(parents=True)
    (home / ".codex" / "config.toml").write_text(CODEX_CONFIG.format(url=router))
    given = {name: value.replace("URL", router) for name, value in environment.items()}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "IS_SANDBOX": "1", **given},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "prompt_tokens_differed" not in system.log("router")
    requests: list[dict[str, object]] = (await system.get(f"{router}/admin/requests"))["requests"]
    return requests[::-1]


def assert_warm(requests: list[dict[str, object]], path: str) -> None:
    """One call of the model per step and one more, streamed; each later one found 95% of what is possible."""
    asked = [request for request in requests if request["path"] == path]
    assert len(asked) >= STEPS + 1
    assert all((request["outcome"], request["stream"]) == ("ok", True) for request in asked)
    for before, request in pairwise(asked):
        possible = int(str(before["prompt_tokens"])) // BLOCK_SIZE * BLOCK_SIZE
        assert int(str(request["delivered_tokens"])) >= 0.95 * possible


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


async def test_claude_code(system: System) -> None:
    """Messages, streamed, with its own tool for commands."""
    [program] = (NODE_MODULES / "@anthropic-ai").glob("claude-code-*/claude")
    command = [program, "-p", TASK, "--dangerously-skip-permissions"]
    call = {"name": "Bash", "arguments": {"command": "echo step", "description": "Says step"}}
    requests = await run_agent(
        system,
        command,
        call,
        ANTHROPIC_BASE_URL="URL",
        ANTHROPIC_API_KEY="none",
        ANTHROPIC_MODEL="tiny",
        ANTHROPIC_SMALL_FAST_MODEL="tiny",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_AUTOUPDATER="1",
    )
    assert_warm(requests, "/v1/messages")


async def test_codex(system: System) -> None:
    """Responses, streamed, with its own tool for commands."""
    command = [NODE_MODULES / ".bin" / "codex", "exec", "--skip-git-repo-check"]
    command += ["--dangerously-bypass-approvals-and-sandbox", TASK]
    call = {"name": "exec_command", "arguments": {"cmd": "echo step"}}
    requests = await run_agent(system, command, call, OPENAI_API_KEY="none")
    assert_warm(requests, "/v1/responses")
