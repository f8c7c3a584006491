"""From a request body to what a decision needs: token counts, block keys, and a conversation key."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.block_keys import block_keys
from cluster.errors import PromptError
from cluster.replicas import Model
from cluster.tokenizer import Prompt, PromptTokenizer
from router.api.schema import Call
from router.errors import ContextTooLongError

INLINE_BYTES = 64 * 1024
"""Bodies up to this size are tokenised on the event loop (under 10 ms), longer ones in a thread."""

CHARACTERS_PER_TOKEN = 4
"""Guess for prompts that cannot be tokenised here; only their load is estimated with it."""


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt as routing sees it."""

    keys: Sequence[int]
    """Block keys; empty when the prompt could not be tokenised here."""
    prompt_tokens: int
    """Exact when ``exact``, otherwise guessed from the size of the body."""
    opening_tokens: int
    conversation_key: int
    exact: bool


async def prepare(call: Call, model: Model, tokenizer: PromptTokenizer | None) -> PreparedPrompt:
    """Tokenise a request's prompt and compute its block keys.

    Without a tokenizer, or for a prompt that only the engine can render, the result has no keys, and the ring
    places the conversation. Raises `ContextTooLongError` when the prompt cannot fit into the model's context.
    """
    conversation_key = call.conversation_key(call.cache_salt.encode())
    prompts = await _tokenise(call, tokenizer) if tokenizer and call.tokenisable else None
    if prompts is None:
        return PreparedPrompt(
            keys=(),
            prompt_tokens=max(1, len(call.raw) // CHARACTERS_PER_TOKEN),
            opening_tokens=0,
            conversation_key=conversation_key,
            exact=False,
        )
    for prompt in prompts:
        if model.max_model_len and len(prompt.token_ids) >= model.max_model_len:
            raise ContextTooLongError(
                f"This model's maximum context length is {model.max_model_len} tokens. "
                f"However, your prompt has {len(prompt.token_ids)} tokens: no room for an answer.",
                param="messages" if "messages" in call.fields else "prompt",
            )
    keys: list[int] = []
    if model.namespace is not None:
        root = model.salted_namespace(call.cache_salt).root()
        keys = block_keys(root, prompts[0].token_ids, model.namespace.block_size)
    return PreparedPrompt(
        keys=keys,
        prompt_tokens=sum(len(prompt.token_ids) for prompt in prompts),
        opening_tokens=prompts[0].opening_tokens,
        conversation_key=conversation_key,
        exact=True,
    )


async def _tokenise(call: Call, tokenizer: PromptTokenizer) -> list[Prompt] | None:
    """All prompts of the request (a text completion may hold several); None when they cannot be rendered."""
    try:
        if len(call.raw) <= INLINE_BYTES:
            return _prompts(call.fields, tokenizer)
        return await asyncio.to_thread(_prompts, call.fields, tokenizer)
    except PromptError:
        # What the template refuses, the engine refuses too, and says why better than we could. Prompts with
        # images are rendered by the engine alone.
        return None


def _prompts(fields: Mapping[str, Any], tokenizer: PromptTokenizer) -> list[Prompt]:
    if "messages" in fields:
        return [tokenizer.chat(fields)]
    prompt = fields["prompt"]
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    special = fields.get("add_special_tokens")
    return [
        tokenizer.completion(one, add_special_tokens=special is not False)
        for one in (prompt if several else [prompt])
    ]
