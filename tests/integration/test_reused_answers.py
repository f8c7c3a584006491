"""How much of what a real engine has generated it finds in its cache on the next turn, by template."""

import asyncio
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conformance.vllm_engine import ENVIRONMENT
from tests.integration.system import System, eventually, free_port
from tests.small_model import small_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

TEMPLATES = Path(__file__).parents[1] / "rendering" / "templates"
BLOCK_SIZE = 32
NUM_TURNS = 3
WORDS = "[A-Za-z ,.]"
CALL = '<tool_call>\\n{"name": "find", "arguments": {"a":"[A-Za-z ]{100,150}"}}\\n</tool_call>'
LLAMA_CALL = '{"name": "find", "parameters": {"a":"[A-Za-z ]{100,150}"}}'
THOUGHTS = f"{WORDS}{{100,150}}\\n</think>\\n\\n{WORDS}{{60,100}}"
KINDS = {
    "text": "",
    "white space": f"\\n\\n{WORDS}{{100,150}}",
    "thoughts": f"<think>\\n{THOUGHTS}",
    "call": CALL,
}
"""What answers are like, as regular expressions; text is as it comes."""
TOOL = {"type": "function", "name": "find", "parameters": {"type": "object", "properties": {"a": {}}}}
STYLES: dict[str, tuple[str, dict[str, str], dict[str, str], str]] = {
    "smollm2": ("", {}, {}, "hermes"),
    "qwen3": ("qwen3_style.jinja", {}, {}, "hermes"),
    "llama31": (
        "llama31_style.jinja",
        {
            "<|im_start|>": "<|start_header_id|>",
            "<file_sep>": "<|end_header_id|>",
            "<|im_end|>": "<|eot_id|>",
        },
        {"call": LLAMA_CALL},
        "llama3_json",
    ),
    "deepseek_r1": (
        "deepseek_r1_style.jinja",
        {"<|im_start|>": "<|User|>", "<file_sep>": "<|Assistant|>", "<|im_end|>": "<|end_of_sentence|>"},
        {"thoughts": THOUGHTS},
        "hermes",
    ),
}
"""Templates with the names of their special tokens, their own answers, and who parses their calls."""


def styled_model(directory: Path, template: str, renamed: dict[str, str]) -> Path:
    """The small model with another template, whose special tokens are special."""
    directory.mkdir()
    for path in small_model().iterdir():
        text = path.read_text() if path.suffix == ".json" and path.name.startswith("tokenizer") else ""
        for old, new in renamed.items():
            text = text.replace(json.dumps(old), json.dumps(new))
        if text:
            (directory / path.name).write_text(text)
        else:
            (directory / path.name).symlink_to(path)
    if template:
        (directory / "chat_template.jinja").unlink()
        (directory / "chat_template.jinja").write_text((TEMPLATES / template).read_text())
    return directory


class Conversation:
    """One that goes on by ``previous_response_id``, and what came of its turns."""

    def __init__(self, session: aiohttp.ClientSession, router: str, model: str, kind: str, answer: str):
        self._session, self._router = session, router
        self._model, self._kind, self._answer = model, kind, answer
        self.found, self.possible = 0, 0
        """Tokens of answers that were found on the next turn, and that stood in whole blocks."""
        self.reasons: list[str] = []

    async def run(self) -> None:
        """All turns; whole and streamed in turn."""
        given: Any = f"{self._kind} {self._model}: tell me about prefix caching. " * 4
        body: dict[str, Any] = {"model": self._model, "temperature": 0.8, "seed": 1, "max_output_tokens": 100}
        body["enable_response_messages"] = True
        if self._answer:
            body["structured_outputs"] = {"regex": self._answer}
        if self._kind == "call":
            body["tools"] = [TOOL]
        held: list[int] = []
        prompt_tokens = 0
        for turn in range(NUM_TURNS):
            answer, explained = await self._ask({**body, "input": given, "stream": turn % 2 == 1})
            prompt = answer["input_messages"][0]["tokens"]
            if held:
                self._compare(held, prompt_tokens, prompt, answer["usage"], explained)
            held = prompt + answer["output_messages"][0]["tokens"]
            prompt_tokens = len(prompt)
            body["previous_response_id"] = answer["id"]
            given = f"Go on {turn}, and say why it matters."
            if self._kind == "call":
                [call] = [item for item in answer["output"] if item["type"] == "function_call"]
                given = [{"type": "function_call_output", "call_id": call["call_id"], "output": "water"}]

    def _compare(
        self, held: list[int], before: int, prompt: list[int], usage: Any, explained: dict[str, Any]
    ) -> None:
        """What the engine holds with the next prompt, and with what the router says of it."""
        cached = usage["input_tokens_details"]["cached_tokens"]
        possible = (len(held) - 1) // BLOCK_SIZE * BLOCK_SIZE
        start = before // BLOCK_SIZE * BLOCK_SIZE
        self.found += max(min(cached, possible) - start, 0)
        self.possible += possible - start
        self.reasons.append(explained["continuation"])
        assert sum(explained["misses"].values()) == len(prompt) - cached
        same = next((n for n, pair in enumerate(zip(held, prompt, strict=False)) if pair[0] != pair[1]), None)
        if same is None or same >= possible:
            assert (explained["divergence"], cached) == (None, possible), (self._kind, self._model)
        else:
            assert cached == same // BLOCK_SIZE * BLOCK_SIZE
            divergence = explained["divergence"]
            assert (divergence["token"], divergence["kind"]) == (cached, "re_rendered")
            again = min(possible, (len(prompt) - 1) // BLOCK_SIZE * BLOCK_SIZE) - cached
            assert explained["misses"]["re_rendered"] == again

    async def _ask(self, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        async with self._session.post(f"{self._router}/v1/responses", json=body) as response:
            text = await response.text()
            assert response.status == 200, text
            request_id = response.headers["x-request-id"]
        if body["stream"]:
            final = next(
                event for event in text.split("\n\n") if event.startswith("event: response.completed")
            )
            answer = json.loads(final.partition("data: ")[2])["response"]
        else:
            answer = json.loads(text)
        async with self._session.get(f"{self._router}/admin/requests/{request_id}") as response:
            return answer, await response.json()


@pytest.mark.parametrize("style", STYLES)
async def test_answers_are_reused(style: str, tmp_path: Path) -> None:
    """Some of them as templates write them; all of them, block for block, with token-exact continuation."""
    template, renamed, own, parser = STYLES[style]
    model = styled_model(tmp_path / "model", template, renamed)
    sockets = tempfile.mkdtemp(dir="/tmp")
    events = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": "kv"}
    events |= {"endpoint": f"ipc://{sockets}/events", "replay_endpoint": f"ipc://{sockets}/replay"}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--served-model-name", "plain", "exact", "--port", str(port), "--enforce-eager"),
        *("--max-model-len", "4096", "--block-size", str(BLOCK_SIZE), "--enable-prompt-tokens-details"),
        *("--enable-auto-tool-choice", "--tool-call-parser", parser),
        *("--kv-events-config", json.dumps(events)),
    ]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:
        system = System(tmp_path, model, session)
        try:
            system.redis.start()
            system.start("engine", command, **ENVIRONMENT)
            await eventually(lambda: system.answers(f"{url}/health"), 400, "engine healthy", every=1.0)
            system.start_agent(url)
            settings = {"WARMROUTE_STORED_RESPONSES": "memory", "WARMROUTE_TOKEN_EXACT": "exact"}
            router = await system.start_router(**settings)
            kinds = {**KINDS, **own}
            if style in ("smollm2", "deepseek_r1"):
                del kinds["call"]  # the one shows no tools, the other wants arguments as texts
            talks = {
                (kind, name): Conversation(session, router, name, kind, answer)
                for kind, answer in kinds.items()
                for name in ("plain", "exact")
            }
            await asyncio.gather(*(talk.run() for talk in talks.values()))
        finally:
            system.stop()
            shutil.rmtree(sockets)
    lines = defaultdict(list)
    for (kind, _), talk in talks.items():
        lines[kind].append(f"{talk.found} of {talk.possible} ({talk.found / talk.possible:.0%})")
    for kind, shares in lines.items():
        sys.stdout.write(f"\n| {style} | {kind} | {' | '.join(shares)} |")
    for (kind, name), talk in talks.items():
        if name == "exact":
            assert set(talk.reasons) == {"exact"}, kind
            assert talk.found == talk.possible, kind
        else:
            assert set(talk.reasons) == {""}
