"""From a request body to what a decision needs: token counts, block keys, and a conversation key."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import msgspec

from cluster.apis.breakpoints import MIN_TOKENS, Breakpoint
from cluster.errors import PromptError
from cluster.fleet.replicas import Model
from cluster.index.block_table import NO_KEYS, BlockKeys
from cluster.prompts.prompt_keys import KeyedPrompt, PendingPrompt
from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.block_keys import Namespace
from router.errors import ContextTooLongError
from router.requests.approximate import approximate_keys
from router.requests.prompt_threads import Pause, PromptBusyError, PromptThreads
from router.requests.schema import CHARACTERS_PER_TOKEN, Call

INLINE_BYTES = 1024 * 1024
INLINE_PIECES = 512
INLINE_SHAPING_BYTES = 32 * 1024
"""Up to this size, so many messages, parts or prompts, and so much JSON besides texts, requests are rendered
and looked up on the event loop: at most 5 ms."""
INLINE_NEW_BYTES = 8 * 1024
"""Up to this size new text is tokenised on the event loop: at most 7 ms. More goes to a thread."""
MAX_PIECES = 32 * 1024
MAX_SHAPING_BYTES = 1024 * 1024
"""Requests with more are not rendered here: it would take seconds."""
MAX_PART_BYTES = 512 * 1024
"""Texts without a place to be cut at for so long are not tokenised here: that could not be abandoned."""
SHAPING_FIELDS = ("tools", "documents", "chat_template_kwargs")

PROMPT_FIELDS = (
    *("messages", "system", "tools", "documents", "prompt", "suffix", "input", "instructions"),
    *("query", "queries", "text_1", "text_2", "data_1", "data_2"),
)
"""Where text for a prompt stands in a body of any API; in other fields there may be anything."""
MEDIA_KEYS = frozenset(
    {
        *("image_url", "input_audio", "audio_url", "video_url", "image_embeds", "audio_embeds"),
        *("file", "file_data", "file_id", "source"),
    }
)
"""Of parts of messages that are no text, in any API."""
MEDIA_TOKENS = 1024
"""Guess for a picture, a sound or a file: what it takes of a prompt does not depend on its bytes."""
MAX_MEASURED = 4096
"""Values that are looked at for a guess, in 1 ms; with more, all bytes of a body count as text."""

NO_NAMESPACE = Namespace(tokenizer_fingerprint="", block_size=0)
"""Of a model whose blocks cannot be seen: nothing gets keys."""

TEXTS = "texts"
"""In place of a tokenizer, where keys are those of texts."""

MAX_ROOTS = 1024
"""Tenants' namespaces whose roots are remembered: 2 us each."""


class PreparedPrompt(msgspec.Struct, frozen=True):
    """A prompt as routing sees it."""

    keys: BlockKeys
    """Block keys; those of its texts when the prompt could not be tokenised here."""
    prompt_tokens: int
    """Exact when ``exact``, otherwise guessed."""
    opening_tokens: int
    conversation_key: int
    """0 where it belongs to no conversation that is known here."""
    exact: bool
    context_tokens: int = 0
    """What an engine's context must have room for, or it would refuse; 0 where all engines' have the same."""
    breakpoints: Sequence[Breakpoint] | None = None
    """Breakpoints that are long enough; None where the client has set none."""


async def prepare(
    call: Call, model: Model, tokenizer: PromptTokenizer | None, threads: PromptThreads, client: Hashable
) -> PreparedPrompt:
    """Tokenise a request's prompt and compute its block keys, as far as the last turn has not done so.

    Without a tokenizer, or for a prompt that only the engine can render or that takes too long here, the
    result is not exact, and its keys are those of its texts. Long prompts are worked on in ``threads``, where
    clients take turns. Raises `ContextTooLongError` when the prompt cannot fit into the model's context.
    """
    conversation_key = call.conversation_key
    prompts, texts = None, (NO_KEYS, 0)
    with suppress(PromptBusyError):
        if tokenizer and call.tokenisable:
            prompts = await _keyed(call, model, tokenizer, threads, client)
        if prompts is None:
            texts = await _by_texts(call, model, threads, client)
    if prompts is None:
        guessed = guess(call, conversation_key)
        least_tokens = (min(guessed.prompt_tokens + 1, model.max_model_len),)
        room = _context_tokens(call, model, least_tokens)
        return msgspec.structs.replace(guessed, keys=texts[0], opening_tokens=texts[1], context_tokens=room)
    for prompt in prompts:
        _require_fit(call, model, prompt.num_tokens)
    return PreparedPrompt(
        keys=NO_KEYS if _skips_cache(call) else prompts[0].keys,
        prompt_tokens=sum(prompt.num_tokens for prompt in prompts),
        opening_tokens=prompts[0].opening_tokens,
        conversation_key=conversation_key,
        exact=True,
        context_tokens=_context_tokens(call, model, (prompt.num_tokens + 1 for prompt in prompts)),
        breakpoints=_long_enough(call, prompts[0].marks) if call.breakpoints else None,
    )


def guess(
    call: Call, conversation_key: int = 0, bytes_per_token: float = CHARACTERS_PER_TOKEN
) -> PreparedPrompt:
    """A prompt that is not tokenised here: its length is estimated by its text, or else by its bytes."""
    characters, media_tokens = len(call.raw), 0
    if call.fields and bytes_per_token == CHARACTERS_PER_TOKEN:
        characters, media_tokens = _measured(call.fields) or (characters, 0)
    return PreparedPrompt(
        keys=NO_KEYS,
        prompt_tokens=max(1, int(characters / bytes_per_token) + media_tokens),
        opening_tokens=0,
        conversation_key=conversation_key,
        exact=False,
    )


def _measured(fields: Mapping[str, Any]) -> tuple[int, int] | None:
    """Characters of a prompt's text, and tokens of what is no text; None where that would take too long."""
    characters = media_tokens = 0
    rest = [fields[name] for name in PROMPT_FIELDS if name in fields]
    for _ in range(MAX_MEASURED):
        if not rest:
            return characters, media_tokens
        value = rest.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, list):
            if value and isinstance(value[0], int):
                characters += len(value) * CHARACTERS_PER_TOKEN
            else:
                rest += value
        elif isinstance(value, dict):
            if isinstance(value.get("type"), str) and not MEDIA_KEYS.isdisjoint(value):
                media_tokens += MEDIA_TOKENS
            else:
                rest += value.values()
    return None


def _skips_cache(call: Call) -> bool:
    """Whether the engine computes the whole prompt anew, as vLLM does for log probabilities of prompts."""
    fields = call.fields
    if fields.get("prompt_logprobs") is not None:
        return True
    return bool(fields.get("echo")) and (bool(call.messages) or fields.get("logprobs") is not None)


async def _by_texts(
    call: Call, model: Model, threads: PromptThreads, client: Hashable
) -> tuple[BlockKeys, int]:
    """Keys of the request's texts, and the tokens of its opening."""
    if model.namespace is None or not call.is_readable:
        return NO_KEYS, 0
    root = _root(replace(model.namespace, tokenizer_fingerprint=TEXTS), call.cache_salt)
    make = partial(approximate_keys, call, root, model.namespace.block_size)
    if len(call.raw) <= INLINE_BYTES:
        return make()
    return await threads.run(client, len(call.raw), lambda pause: make())


async def _keyed(
    call: Call, model: Model, tokenizer: PromptTokenizer, threads: PromptThreads, client: Hashable
) -> list[KeyedPrompt] | None:
    """All prompts of the request (a text completion may hold several); None when they cannot be computed."""
    try:
        num_bytes, (pieces, shaping_bytes) = len(call.raw), _effort(call)
        if pieces > MAX_PIECES or shaping_bytes > MAX_SHAPING_BYTES:
            return None
        if num_bytes > INLINE_BYTES or pieces > INLINE_PIECES or shaping_bytes > INLINE_SHAPING_BYTES:
            return await threads.run(
                client,
                num_bytes,
                lambda pause: _finish(_look_up(call, model, tokenizer, pause), pause),
            )
        pending = _look_up(call, model, tokenizer)
        new_bytes = sum(prompt.new_bytes for prompt in pending)
        if new_bytes > INLINE_NEW_BYTES:
            return await threads.run(client, new_bytes, lambda pause: _finish(pending, pause))
        return _finish(pending)
    except PromptError:
        # What the template refuses, the engine refuses too, and says why better than we could. Prompts with
        # images are rendered by the engine alone.
        return None


def _effort(call: Call) -> tuple[int, int]:
    """How much work it is to render a request and to look up what is known of it, where its bytes are many:
    its messages and their parts, or prompts; and bytes of JSON that templates write out or read, besides
    texts.
    """
    if len(call.raw) <= INLINE_SHAPING_BYTES:
        return 0, 0
    messages = call.messages
    if not messages:
        prompt = call.fields["prompt"]
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        return len(prompt) if several else 1, 0
    shaping = [call.fields[name] for name in SHAPING_FIELDS if name in call.fields]
    pieces = len(messages)
    for message in messages[:MAX_PIECES]:
        if isinstance(content := message.get("content"), list):
            pieces += len(content)
        if "tool_calls" in message:
            shaping.append(message["tool_calls"])
    return pieces, len(msgspec.json.encode(shaping)) if shaping else 0


def _look_up(
    call: Call, model: Model, tokenizer: PromptTokenizer, pause: Pause = lambda: None
) -> list[PendingPrompt]:
    """The request's prompts, and how much of them is known. Only the first one gets keys."""
    fields, namespace = call.fields, model.namespace or NO_NAMESPACE
    root = _root(namespace, call.cache_salt)
    if call.token_ids:
        pending = [tokenizer.keyed_completion(call.token_ids, root, namespace.block_size)]
    elif call.messages:
        pending = [tokenizer.keyed_chat(fields, root, namespace.block_size, call.breakpoints)]
    else:
        prompt = fields["prompt"]
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        special = fields.get("add_special_tokens")
        pending = []
        for number, one in enumerate(prompt if several else [prompt]):
            block_size = 0 if number else namespace.block_size
            pending.append(
                tokenizer.keyed_completion(one, root, block_size, add_special_tokens=special is not False)
            )
            pause()
    for each in pending:
        _require_fit(call, model, each.least_tokens, "at least ")
        if each.longest_new_part > MAX_PART_BYTES:
            raise PromptError("the text has no place to be cut at")
    return pending


def _long_enough(call: Call, tokens: Sequence[int]) -> list[Breakpoint]:
    pairs = zip(call.breakpoints, tokens, strict=True)
    return [each._replace(tokens=before) for each, before in pairs if before >= MIN_TOKENS]


def _require_fit(call: Call, model: Model, num_tokens: int, at_least: str = "") -> None:
    if not model.fits(num_tokens + 1):
        raise ContextTooLongError(
            f"This model's maximum context length is {model.max_model_len} tokens. "
            f"However, your prompt has {at_least}{num_tokens} tokens: no room for an answer.",
            param="messages" if call.messages else "prompt",
        )


def _context_tokens(call: Call, model: Model, least_tokens: Iterable[int]) -> int:
    """As vLLM has it: a prompt leaves room for one token at least, and an answer may be as long as the whole
    context, since its limit is lowered to what is left. What no engine allows goes to one that allows most.
    """
    if model.context_limits is None:
        return 0
    return max(*least_tokens, min(call.max_tokens, model.max_model_len))


@lru_cache(MAX_ROOTS)
def _root(namespace: Namespace, cache_salt: str) -> bytes:
    """Of one tenant's namespace."""
    return replace(namespace, cache_salt=cache_salt).root()


def _finish(pending: Iterable[PendingPrompt], pause: Pause | None = None) -> list[KeyedPrompt]:
    return [prompt.finish(pause) for prompt in pending]
