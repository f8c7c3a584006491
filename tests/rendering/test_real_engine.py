"""A real vLLM renders random requests as the router does, and ``/tokenize`` is asked the same."""

import json
import sys

import aiohttp
import pytest

from cluster.prompts.tokenizer import PromptTokenizer
from router.requests.differences import locate
from router.requests.schema import parse_chat
from tests.integration.system import System, end, eventually, free_port
from tests.rendering.__main__ import Server, bodies, in_request
from tests.rendering.comparison import OPTIONS, Tally, compare
from tests.small_model import small_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

OPTIONS_OF_ENGINE = (
    *("--served-model-name", "m", "--enforce-eager", "--max-model-len", "8192"),
    *("--enable-scale-out", "--trust-request-chat-template"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
)
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
               "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}  # fmt: skip
ASKED = json.dumps(
    {
        "messages": [
            {"role": "system", "content": "x-anthropic-billing-header: 1\nYou are"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "reasoning_content": "d"},
            {"role": "developer", "content": "e"},
            {"role": "user", "content": "f"},
        ],
        "documents": [{"text": "g"}],
        "reasoning_effort": "low",
        "chat_template_kwargs": {"h": 1},
        "tools": [{"type": "function", "function": {"name": "i"}}],
    }
).encode()


async def test_a_real_engine_renders_as_the_router_does(tmp_path):
    """With four templates, which requests bring along."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        model = small_model()
        system = System(tmp_path, model, session)
        try:
            command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *OPTIONS_OF_ENGINE]
            system.start("engine", [*command, "--model", str(model), "--port", str(port)], **ENVIRONMENT)
            await eventually(lambda: system.answers(f"{url}/health"), 400, "engine healthy", every=1.0)
            for number, options in enumerate(filter(in_request, OPTIONS.values())):
                tokenizer, tally = PromptTokenizer(model, options=options), Tally()
                for body in await bodies(60, number):
                    await compare(tokenizer, Server(url, session, options), body, tally)
                assert not tally.differences, "\n".join(tally.differences)
                assert tally.outcomes["equal"] > 20
            await _tokenize_is_asked_the_same(url, session, PromptTokenizer(model))
        finally:
            for process in system.processes:
                end(process)


async def _tokenize_is_asked_the_same(url, session, tokenizer):
    """Where tokens do not differ, the engine's ``/tokenize`` agrees."""

    class Upstream:
        async def tokenise(self, url, body):
            async with session.post(f"{url}/tokenize", json=body) as response:
                assert response.status == 200, await response.text()
                return (await response.json())["tokens"]

    where = await locate(Upstream(), url, "m", tokenizer, parse_chat(ASKED))
    assert "/tokenize agrees" in where
