"""A real vLLM renders random requests as the router does, and ``/tokenize`` is asked the same."""

import json

import aiohttp
import pytest

from cluster.prompts.tokenizer import PromptTokenizer
from router.requests.differences import locate
from router.requests.schema import parse_chat
from tests.rendering.__main__ import Server, bodies, in_request
from tests.rendering.comparison import OPTIONS, Tally, compare
from tests.small_model import small_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

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


async def test_a_real_engine_renders_as_the_router_does(real_engine):
    """With four templates, which requests bring along."""
    url = f"http://127.0.0.1:{real_engine}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        model = small_model()
        for number, options in enumerate(filter(in_request, OPTIONS.values())):
            tokenizer, tally = PromptTokenizer(model, options=options), Tally()
            for body in await bodies(60, number):
                await compare(tokenizer, Server(url, session, options), body, tally)
            assert not tally.differences, "\n".join(tally.differences)
            assert tally.outcomes["equal"] > 20
        await _tokenize_is_asked_the_same(url, session, PromptTokenizer(model))


async def _tokenize_is_asked_the_same(url, session, tokenizer):
    """Where tokens do not differ, the engine's ``/tokenize`` agrees."""

    class Upstream:
        async def tokenise(self, url, body):
            async with session.post(f"{url}/tokenize", json=body) as response:
                assert response.status == 200, await response.text()
                return (await response.json())["tokens"]

    where = await locate(Upstream(), url, "m", tokenizer, parse_chat(ASKED))
    assert "/tokenize agrees" in where
