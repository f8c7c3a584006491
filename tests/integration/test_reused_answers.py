"""How much of what a real engine has generated it finds in its cache on the next turn, by template."""

import asyncio
import json
import shutil
import sys
import tempfile
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
NUM_TURNS = 2
WORDS = "[A-Za-z ,.]"
CALL = '<tool_call>\\n\\{"name": "find", "arguments": \\{"a":"[A-Za-z ]{55,75}"\\}\\}\\n</tool_call>'
THOUGHTS = f"{WORDS}{{100,150}}\\n</think>\\n\\n{WORDS}{{60,100}}"
KINDS = {
    "text": "",
    "white space": f"\\n\\n{WORDS}{{100,150}}",
    "thoughts": f"<think>\\n{THOUGHTS}",
}
"""What answers are like, as regular expressions; text is as it comes."""
TOOL = {"type": "function", "name": "find", "parameters": {"type": "object", "properties": {"a": {}}}}
STYLES: dict[str, dict[str, str]] = {
    "smollm2": {},
    "qwen3": {},
    "llama31": {
        "<|start_header_id|>": "<|im_start|>",
        "<|end_header_id|>": "<file_sep>",
        "<|eot_id|>": "<|im_end|>",
    },
    "deepseek_r1": {
        "<|User|>": "<|im_start|>",
        "<|Assistant|>": "<file_sep>",
        "<|end_of_sentence|>": "<|im_end|>",
    },
}
"""Templates, and special tokens of the small model that stand for theirs."""
ANSWERS = {(style, kind): answer for style in STYLES for kind, answer in KINDS.items()}
ANSWERS |= {("deepseek_r1", "thoughts"): THOUGHTS, ("qwen3", "call"): CALL}


def styled_model(directory: Path) -> Path:
    """The small model with all templates in one: requests say which."""
    directory.mkdir()
    for path in small_model().iterdir():
        (directory / path.name).symlink_to(path)
    template, choice = directory / "chat_template.jinja", "{% if false %}"
    own = template.read_text()
    for style, special_tokens in STYLES.items():
        text = own if style == "smollm2" else (TEMPLATES / f"{style}_style.jinja").read_text()
        for theirs, ours in special_tokens.items():
            text = text.replace(theirs, ours)
        choice += f"{{% elif style == '{style}' %}}{text}"
    template.unlink()
    template.write_text(f"{choice}{{% else %}}{own}{{% endif %}}")
    return directory


class Conversation:
    """One that goes on by ``previous_response_id``, and what came of its turns."""

    def __init__(self, session: aiohttp.ClientSession, router: str, model: str, style: str, kind: str):
        self._session, self._router = session, router
        self._model, self._style, self._kind = model, style, kind
        self.found, self.possible = 0, 0
        """Tokens of answers that were found on the next turn, and that stood in whole blocks."""
        self.reasons: list[str] = []

    async def run(self) -> None:
        """All turns; whole and streamed in turn."""
        given: Any = f"{self._kind} {self._model}: tell me about prefix caching. " * 4
        body: dict[str, Any] = {"model": self._model, "temperature": 0.8, "seed": 1, "max_output_tokens": 100}
        body |= {"chat_template_kwargs": {"style": self._style}, "enable_response_messages": True}
        if answer_like := ANSWERS[self._style, self._kind]:
            body["structured_outputs"] = {"regex": answer_like}
        if self._kind == "call":
            body["tools"] = [TOOL]
        held: list[int] = []
        prompt_tokens = 0
        for turn in range(NUM_TURNS):
            if turn == NUM_TURNS - 1:
                body["max_output_tokens"] = 1  # nobody goes on from it
            answer, explained = await self._ask({**body, "input": given, "stream": turn % 2 == 1})
            prompt = answer["input_messages"][0]["tokens"]
            if held:
                self._compare(held, prompt_tokens, prompt, answer["usage"], explained)
            held = prompt + answer["output_messages"][0]["tokens"]
            prompt_tokens = len(prompt)
            body["previous_response_id"] = answer["id"]
            given = f"Go on {turn}, and say why it matters."
            if self._kind == "call" and turn < NUM_TURNS - 1:
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
            assert cached == possible, (self._style, self._kind, self._model)
            assert (explained["divergence"] or {"token": possible})["token"] >= possible
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


async def test_answers_are_reused(tmp_path: Path) -> None:
    """Some of them as templates write them; all of them, block for block, with token-exact continuation."""
    model = styled_model(tmp_path / "model")
    sockets = tempfile.mkdtemp(dir="/tmp")
    events = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": "kv"}
    events |= {"endpoint": f"ipc://{sockets}/events", "replay_endpoint": f"ipc://{sockets}/replay"}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--served-model-name", "plain", "exact", "--port", str(port), "--enforce-eager"),
        *("--max-model-len", "4096", "--block-size", str(BLOCK_SIZE), "--enable-prompt-tokens-details"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        *("--chat-template-content-format", "string", "--kv-events-config", json.dumps(events)),
    ]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:
        system = System(tmp_path, model, session)
        try:
            system.redis.start()
            system.start("engine", command, **ENVIRONMENT)
            await eventually(lambda: system.answers(f"{url}/health"), 400, "engine healthy", every=1.0)
            system.start_agent(url)
            options = {name: {"chat_template_content_format": "string"} for name in ("plain", "exact")}
            router = await system.start_router(
                WARMROUTE_STORED_RESPONSES="memory",
                WARMROUTE_TOKEN_EXACT="exact",
                WARMROUTE_CHAT_OPTIONS=json.dumps(options),
            )
            talks = {
                (style, kind): [
                    Conversation(session, router, name, style, kind) for name in ("plain", "exact")
                ]
                for style, kind in ANSWERS
            }
            await asyncio.gather(*(talk.run() for pair in talks.values() for talk in pair))
        finally:
            system.stop()
            shutil.rmtree(sockets)
    for (style, kind), pair in talks.items():
        shares = [f"{talk.found} of {talk.possible}" for talk in pair]
        sys.stdout.write(f"\n| {style} | {kind} | {' | '.join(shares)} |")
    for place, (plain, exact) in talks.items():
        assert not exact.possible or set(exact.reasons) == {"exact"}, place
        assert exact.found == exact.possible, place
        assert set(plain.reasons) == {""}, place
