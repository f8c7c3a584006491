"""Compares the router's tokens of random requests with those of vLLM."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from cluster.errors import PromptError
from cluster.prompts.chat_rendering import ChatOptions
from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.block_keys import block_keys
from router.errors import InvalidRequestError
from router.requests.schema import Call, parse_chat, parse_completion

Engine: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[list[list[int]] | None]]

TEMPLATES = Path(__file__).parent / "templates"
ROOT, BLOCK_SIZE = b"12345678", 4
OPTIONS: dict[str, ChatOptions] = {
    "smollm2": ChatOptions(),
    "qwen3": ChatOptions(TEMPLATES / "qwen3_style.jinja"),
    "qwen3, defaults": ChatOptions(
        TEMPLATES / "qwen3_style.jinja",
        default_chat_template_kwargs={"enable_thinking": False, "documents": [{"text": "d"}]},
        exclude_tools_when_tool_choice_none=True,
    ),
    "llama31": ChatOptions(TEMPLATES / "llama31_style.jinja"),
    "llama31, defaults": ChatOptions(
        TEMPLATES / "llama31_style.jinja",
        "string",
        {"tools_in_user_message": False, "date_string": "auto", "tools": [{"name": "default"}]},
    ),
    "deepseek-r1": ChatOptions(TEMPLATES / "deepseek_r1_style.jinja"),
}
"""Servers by name: a template, and options of the command line."""


@dataclass(slots=True)
class Tally:
    """What became of requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    declared: Counter[str] = field(default_factory=Counter)
    """Why the router does not know the tokens of what the engine renders."""


async def compare(tokenizer: PromptTokenizer, engine: Engine, body: Mapping[str, Any], tally: Tally) -> None:
    """Render one request at both, and note the outcome.

    A difference counts as noticed where the router says beforehand that it does not know the tokens.
    """
    theirs = await engine(body)
    ours, reason = _ours(tokenizer, msgspec.json.encode(body))
    if theirs is None:
        outcome = "the engine refuses"
    elif reason:
        outcome = "the router refuses" if ours is None else "declared not exact"
        tally.declared[reason] += 1
    else:
        outcome = "equal" if ours == theirs else "DIFFERENT"
    tally.outcomes[outcome] += 1
    if outcome in ("DIFFERENT", "the router refuses"):
        tally.differences.append(f"{outcome}\n{body}\n{_text(tokenizer, ours)}\n{_text(tokenizer, theirs)}")


def _ours(tokenizer: PromptTokenizer, raw: bytes) -> tuple[list[list[int]] | None, str]:
    """The router's tokens, or why it has none; None where the client gets an error."""
    chat = b'"messages"' in raw
    try:
        call = (parse_chat if chat else parse_completion)(raw)
        if not call.tokenisable:
            return [], "what only the engine knows"
        return (_chat if chat else _completion)(tokenizer, call), ""
    except InvalidRequestError as error:
        return None, error.message[:60]
    except PromptError as error:
        return [], str(error).removeprefix("the model's chat template refuses these messages: ")[:60]


def _chat(tokenizer: PromptTokenizer, call: Call) -> list[list[int]]:
    tokens = list(tokenizer.chat(call.fields).token_ids)
    keyed = tokenizer.keyed_chat(call.fields, ROOT, BLOCK_SIZE).finish()
    assert keyed.num_tokens == len(tokens)
    assert keyed.keys.tolist() == block_keys(ROOT, tokens, BLOCK_SIZE)
    return [tokens]


def _completion(tokenizer: PromptTokenizer, call: Call) -> list[list[int]]:
    prompt, special = call.fields["prompt"], call.fields.get("add_special_tokens", True)
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    return [list(tokenizer.completion(one, special).token_ids) for one in (prompt if several else [prompt])]


def _text(tokenizer: PromptTokenizer, prompts: list[list[int]] | None) -> str:
    return repr(
        prompts and [tokenizer._backend.decode(tokens, skip_special_tokens=False) for tokens in prompts]
    )
