"""Clients that people use, each with its own package, against a router in front of two simulated engines.

What they send and how they read answers is theirs; see the scripts beside this file for the cases.
"""

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest
import pytest_asyncio

from tests.clients.install import FOLDER, NODE_MODULES, PYTHON, is_installed
from tests.clients.reporting import ARGUMENTS, ENDLESS, QUESTION, TOOL
from tests.integration.system import START_SECONDS, System, eventually, free_port

HERE = Path(__file__).parent
MODEL = "tiny"
ABORT_SECONDS = 5.0
"""Within which an engine stops what nobody waits for any more."""

pytestmark = [pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]
needs_python = pytest.mark.skipif(not is_installed(PYTHON), reason="python -m tests.clients.install")
needs_node = pytest.mark.skipif(not is_installed(NODE_MODULES), reason="python -m tests.clients.install")
needs_openai = pytest.mark.skipif(not importlib.util.find_spec("openai"), reason="no openai here")


class Fleet:
    """A router, and what its engines are doing."""

    def __init__(self, system: System, url: str, engines: Sequence[str]) -> None:
        self.system = system
        self.url = url
        self.engines = engines

    async def use(
        self, command: Sequence[str | Path], url: str = "", only: Sequence[str] = ()
    ) -> dict[str, str]:
        """Run a client's script, or ``only`` some cases of it; return what it said of each. No engine works
        for it any more afterwards.
        """
        process = await asyncio.create_subprocess_exec(
            *command, url or self.url, MODEL, *only,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.system.directory,
        )  # fmt: skip
        output, complaints = await process.communicate()
        said = [json.loads(line) for line in output.splitlines() if line.startswith(b'{"case"')]
        assert said, complaints.decode()
        assert process.returncode == 0, complaints.decode()
        await self.wait_until_idle()
        return {one["case"]: one["said"] for one in said}

    async def wait_until_idle(self) -> None:
        """Until no engine works for anybody."""
        await eventually(self._idle, ABORT_SECONDS, "engines idle after a client aborted its requests")

    async def _idle(self) -> bool:
        for url in self.engines:
            async with self.system.session.get(f"{url}/metrics") as response:
                text = await response.text()
            for name in ("running", "waiting"):
                if f"vllm:num_requests_{name}{{" in text and not _is_zero(
                    text, f"vllm:num_requests_{name}{{"
                ):
                    return False
        return True


def _is_zero(text: str, start: str) -> bool:
    return all(float(line.split()[-1]) == 0 for line in text.splitlines() if line.startswith(start))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> AsyncIterator[Fleet]:
    """Two engines, their agent and a router."""
    async with aiohttp.ClientSession() as session:
        system = System(tmp_path_factory.mktemp("clients"), tiny_model, session)
        try:
            system.redis.start()
            script = system.directory / "script.json"
            script.write_text(json.dumps([{"name": "find", "arguments": ARGUMENTS}]))
            start = partial(system.start_engine, 0, "--script", str(script))
            engines = await asyncio.gather(start(), start())
            urls = [url for url, _ in engines]
            system.start_agent(*urls)
            yield Fleet(system, await system.start_router(), urls)
        finally:
            system.stop()


def complaints(said: dict[str, str]) -> str:
    """What did not work, for the message of a test."""
    return "\n".join(f"{case}: {why}" for case, why in said.items() if why != "ok")


@pytest.mark.integration
@needs_openai
async def test_openai_python(fleet: Fleet) -> None:
    """The version beside this project: chat, tools, structured output, streams, aborts, errors."""
    assert not complaints(await fleet.use([sys.executable, HERE / "use_openai.py"]))


class OpenWebUi:
    """Open WebUI's requests, as its backend sends them: JSON in a text, and headers of its own."""

    HEADERS: ClassVar = {
        "Authorization": "Bearer none",
        "Content-Type": "application/json",
        "X-OpenWebUI-User-Name": "Ann%20B",
        "X-OpenWebUI-User-Id": "5f0c2c0e",
        "X-OpenWebUI-User-Role": "user",
        "X-OpenWebUI-Chat-Id": "d1",
    }

    def __init__(self, fleet: Fleet) -> None:
        self._session = fleet.system.session
        self._url = f"{fleet.url}/v1"

    async def models(self) -> list[str]:
        """What its list of models is made of; also how it verifies a connection."""
        async with self._session.get(f"{self._url}/models", headers=self.HEADERS) as response:
            return [one["id"] for one in (await response.json())["data"]]

    def post(self, **fields: object) -> Any:
        """A chat, with what its interface and its tasks always send."""
        body = {"model": MODEL, "stream": True, **fields}
        url = f"{self._url}/chat/completions"
        return self._session.post(url, data=json.dumps(body), headers=self.HEADERS)

    async def stream(self, **fields: object) -> list[dict[str, Any]]:
        """The chunks of a streamed chat, read line by line."""
        fields = {"stream_options": {"include_usage": True}, **fields}
        async with self.post(**fields) as response:
            assert "text/event-stream" in response.headers["Content-Type"]
            lines = [line.decode().strip() async for line in response.content]
        data = [line.removeprefix("data:").strip() for line in lines if line]
        assert data[-1] == "[DONE]"
        return [json.loads(one) for one in data[:-1]]


@pytest.mark.integration
async def test_open_webui(fleet: Fleet) -> None:
    """A chat, its title, a tool of its own that is called while it streams, and the stop button."""
    webui = OpenWebUi(fleet)
    assert MODEL in await webui.models()
    chat: list[dict[str, Any]] = list(QUESTION)
    chunks = await webui.stream(messages=chat, max_tokens=20, temperature=0.8, metadata={"chat_id": "d1"})
    assert len(chunks) > 10
    assert chunks[-1]["usage"]["completion_tokens"] == 20
    async with webui.post(messages=chat[1:], stream=False, max_completion_tokens=10) as response:
        assert (await response.json())["choices"][0]["message"]["content"]
    chunks = await webui.stream(messages=chat, tools=[TOOL], tool_choice="auto")
    calls = [delta["tool_calls"][0] for delta in deltas(chunks) if "tool_calls" in delta]
    arguments = "".join(call["function"].get("arguments", "") for call in calls)
    assert json.loads(arguments) == ARGUMENTS
    called = {**calls[0], "function": {"name": calls[0]["function"]["name"], "arguments": arguments}}
    chat.append({"role": "assistant", "content": "", "tool_calls": [called]})
    chat.append({"role": "tool", "tool_call_id": called["id"], "content": "there"})
    chunks = await webui.stream(messages=chat, tools=[TOOL], max_tokens=5)
    assert "".join(delta.get("content") or "" for delta in deltas(chunks))
    async with webui.post(messages=chat[:2], max_tokens=ENDLESS) as response:
        await response.content.readline()
    await fleet.wait_until_idle()


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each chunk adds."""
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]


@pytest.mark.clients
@needs_python
@pytest.mark.parametrize("script", ["use_openai.py", "use_langchain.py", "use_litellm.py"])
async def test_python_clients(fleet: Fleet, script: str) -> None:
    """OpenAI's client in the version that others need, LangChain, and LiteLLM."""
    assert not complaints(await fleet.use([PYTHON, HERE / script]))


@pytest.mark.clients
@needs_node
@pytest.mark.parametrize("script", ["use_openai.mjs", "use_ai_sdk.mjs"])
async def test_node_clients(fleet: Fleet, script: str) -> None:
    """OpenAI's client for Node, and Vercel's AI SDK."""
    for path in (HERE / "node").glob("*.mjs"):
        shutil.copy(path, FOLDER)
    assert not complaints(await fleet.use(["node", FOLDER / script]))


LITELLM_ALONE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "true",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}
THROUGH_LITELLM = (
    "models",
    "chat",
    "parts",
    "stream",
    "tools",
    "tools_stream",
    "structured",
    "abort",
)
"""Unknown models it answers itself, and it does not notice that whoever waits for a whole answer has left."""


@pytest.mark.clients
@needs_python
async def test_litellm_as_a_proxy_in_front(fleet: Fleet) -> None:
    """OpenAI's client, LiteLLM's proxy, the router: what the proxy sends on and how it reads answers."""
    port = free_port()
    config = fleet.system.directory / "litellm.json"  # YAML that is JSON
    params = {"model": f"hosted_vllm/{MODEL}", "api_base": f"{fleet.url}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": params}]}))
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    fleet.system.start("litellm", [str(PYTHON.parent / "litellm"), *arguments], **LITELLM_ALONE)
    url = f"http://127.0.0.1:{port}"
    await eventually(lambda: fleet.system.answers(f"{url}/health/liveliness"), START_SECONDS, "proxy alive")
    said = await fleet.use([PYTHON, HERE / "use_openai.py"], url, THROUGH_LITELLM)
    assert list(said) == list(THROUGH_LITELLM)
    assert not complaints(said)
