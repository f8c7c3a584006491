"""From a request body to what a decision needs: token counts, block keys, and a conversation key."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import msgspec

from cluster.block_keys import Namespace
from cluster.block_table import NO_KEYS, BlockKeys
from cluster.errors import PromptError
from cluster.prompt_keys import KeyedPrompt, PendingPrompt
from cluster.replicas import Model
from cluster.tokenizer import PromptTokenizer
from router.api.schema import Call
from router.errors import ContextTooLongError

INLINE_BYTES = 1024 * 1024
INLINE_MESSAGES = 512
"""Up to this size requests are rendered and looked up on the event loop: at most 3 ms."""
INLINE_NEW_BYTES = 8 * 1024
"""Up to this size new text is tokenised on the event loop: at most 5 ms. More goes to a thread."""

NO_NAMESPACE = Namespace(model="", tokenizer_fingerprint="", block_size=0)
"""Of a model whose blocks cannot be seen: nothing gets keys."""

MAX_ROOTS = 1024
"""Tenants' namespaces whose roots are remembered: 2 us each."""

CHARACTERS_PER_TOKEN = 4
"""Guess for prompts that cannot be tokenised here; only their load is estimated with it."""


class PreparedPrompt(msgspec.Struct, frozen=True):
    """A prompt as routing sees it."""

    keys: BlockKeys
    """Block keys; none when the prompt could not be tokenised here."""
    prompt_tokens: int
    """Exact when ``exact``, otherwise guessed from the size of the body."""
    opening_tokens: int
    conversation_key: int
    exact: bool


async def prepare(call: Call, model: Model, tokenizer: PromptTokenizer | None) -> PreparedPrompt:
    """Tokenise a request's prompt and compute its block keys, as far as the last turn has not done so.

    Without a tokenizer, or for a prompt that only the engine can render, the result has no keys, and the ring
    places the conversation. Raises `ContextTooLongError` when the prompt cannot fit into the model's context.
    """
    conversation_key = call.conversation_key(call.cache_salt.encode())
    prompts = await _keyed(call, model, tokenizer) if tokenizer and call.tokenisable else None
    if prompts is None:
        return PreparedPrompt(
            keys=NO_KEYS,
            prompt_tokens=max(1, len(call.raw) // CHARACTERS_PER_TOKEN),
            opening_tokens=0,
            conversation_key=conversation_key,
            exact=False,
        )
    for prompt in prompts:
        if model.max_model_len and prompt.num_tokens >= model.max_model_len:
            raise ContextTooLongError(
                f"This model's maximum context length is {model.max_model_len} tokens. "
                f"However, your prompt has {prompt.num_tokens} tokens: no room for an answer.",
                param="messages" if call.messages else "prompt",
            )
    return PreparedPrompt(
        keys=prompts[0].keys,
        prompt_tokens=sum(prompt.num_tokens for prompt in prompts),
        opening_tokens=prompts[0].opening_tokens,
        conversation_key=conversation_key,
        exact=True,
    )


async def _keyed(call: Call, model: Model, tokenizer: PromptTokenizer) -> list[KeyedPrompt] | None:
    """All prompts of the request (a text completion may hold several); None when they cannot be rendered."""
    try:
        if len(call.raw) > INLINE_BYTES or len(call.messages) > INLINE_MESSAGES:
            return await asyncio.to_thread(_look_up_and_finish, call, model, tokenizer)
        pending = _look_up(call, model, tokenizer)
        if sum(prompt.new_bytes for prompt in pending) > INLINE_NEW_BYTES:
            return await asyncio.to_thread(_finish, pending, pausing=True)
        return _finish(pending, pausing=False)
    except PromptError:
        # What the template refuses, the engine refuses too, and says why better than we could. Prompts with
        # images are rendered by the engine alone.
        return None


def _look_up_and_finish(call: Call, model: Model, tokenizer: PromptTokenizer) -> list[KeyedPrompt]:
    return _finish(_look_up(call, model, tokenizer), pausing=True)


def _look_up(call: Call, model: Model, tokenizer: PromptTokenizer) -> list[PendingPrompt]:
    """The request's prompts, and how much of them is known. Only the first one gets keys."""
    fields, namespace = call.fields, model.namespace or NO_NAMESPACE
    root = _root(namespace, call.cache_salt)
    if call.messages:
        return [tokenizer.keyed_chat(fields, root, namespace.block_size)]
    prompt = fields["prompt"]
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    special = fields.get("add_special_tokens")
    return [
        tokenizer.keyed_completion(
            one, root, 0 if number else namespace.block_size, add_special_tokens=special is not False
        )
        for number, one in enumerate(prompt if several else [prompt])
    ]


@lru_cache(MAX_ROOTS)
def _root(namespace: Namespace, cache_salt: str) -> bytes:
    """Of one tenant's namespace."""
    return replace(namespace, cache_salt=cache_salt).root()


def _finish(pending: Iterable[PendingPrompt], pausing: bool) -> list[KeyedPrompt]:
    return [prompt.finish(pausing) for prompt in pending]
