"""Renders and tokenises prompts exactly as the engine does, with the model's own chat template.

Needs ``transformers`` and no torch. The router compares the outcome with the engine's ``/tokenize`` and falls
back to texts where they differ, so a drift is an alarm and not a wrong key.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any

import xxhash

from cluster.apis.breakpoints import Breakpoint, places_in
from cluster.errors import PromptError, TokenizerUnavailableError
from cluster.prompts.chat_rendering import ChatOptions, ChatRenderer, flag
from cluster.prompts.prompt_cache import PromptCache
from cluster.prompts.prompt_keys import Beginning, PendingPrompt
from cluster.prompts.template_traits import EFFORTS, wants_system_first
from cluster.prompts.text_splits import find_splits, word_rules
from cluster.prompts.word_encoder import WordEncoder
from cluster.protocol.block_keys import TOKEN_BYTES, pack_tokens

IMPORTING = Lock()
"""A thread that needs transformers imports it, which takes seconds; two at once find it half made."""
FINGERPRINTED_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)

TOKENS_PER_PART = 1024
"""Prompts of token ids are cut into parts of this size."""

NFC_SHRINKS = 4
"""Nine bytes of Hangul become three, eight of Greek with accents three; nothing becomes shorter by more."""

SAMPLE = {
    "messages": [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
}
"""Shows which special tokens stand between messages."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the engine will see it."""

    token_ids: Sequence[int]
    opening_tokens: int
    """Leading tokens that other conversations are likely to share: everything before the first user
    message."""


def tokenizer_fingerprint(directory: Path) -> str:
    """Identify a model's tokenizer and template files: 16 hexadecimal digits, "" when none can be read."""
    digest = xxhash.xxh3_64()
    found = False
    for name in FINGERPRINTED_FILES:
        with suppress(OSError):
            content = (directory / name).read_bytes()
            found = True
            digest.update(name.encode() + b"\0")
            digest.update(content)
    return digest.hexdigest() if found else ""


def forgo_torch() -> None:
    """For processes that tokenise and run no model, before the first tokenizer: transformers would import
    torch where it is installed, which takes 330 MB and seconds.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # or it says that torch is missing
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # so that importing it fails


class PromptTokenizer:
    """The tokenizer and chat template of one model.

    Raises `TokenizerUnavailableError` when the directory holds no tokenizer that ``transformers`` can load.
    """

    def __init__(
        self, directory: Path, cache: PromptCache | None = None, options: ChatOptions | None = None
    ) -> None:
        # The tokenizer's own threads cost 20% more CPU time per prompt, and do not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        with IMPORTING:
            from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
            self._backend = tokenizer.backend_tokenizer
        except Exception as error:  # transformers raises whatever broken files make its parsers raise
            raise TokenizerUnavailableError(f"no usable tokenizer in {directory}: {error}") from error
        self.fingerprint = tokenizer_fingerprint(directory)
        self._renderer = ChatRenderer(tokenizer, options)
        self.has_chat_template = self._renderer.has_template
        sample = ""
        with suppress(PromptError):
            sample = self._renderer.render(SAMPLE).text
        self._splits = find_splits(self._backend, sample)
        self._words = WordEncoder(self._backend)
        self._surroundings = self._find_surroundings()
        self._longest_token = _longest_token(self._backend)
        self.cache = cache or PromptCache()

    def chat(self, request: Mapping[str, Any]) -> Prompt:
        """Render and tokenise the body of a chat completion request, in full.

        Raises `PromptError` when the model has no chat template or its template refuses the messages.
        """
        text, position = self._renderer.render(request)
        _utf8(text)
        encoding = self._backend.encode(text, add_special_tokens=flag(request, "add_special_tokens"))
        token = encoding.char_to_token(position) if position >= 0 else None
        return Prompt(encoding.ids, token or 0)

    def tokens_after(self, request: Mapping[str, Any], number: int) -> list[int]:
        """The tokens of `chat` after the text of a message, an answer. Raises `PromptError` where these are
        not the same whatever the answer is, or depend on the tokens before.
        """
        mark, messages = token_hex(16), list(request["messages"])
        messages[number] = {"role": "assistant", "content": mark}
        _, found, after = self._renderer.render({**request, "messages": messages}).text.rpartition(mark)
        if not found or not self._renderer.render(request).text.endswith(after):
            raise PromptError("what stands after an answer depends on it")
        _utf8(after)
        tokens: list[int] = self._backend.encode(after, add_special_tokens=False).ids
        if not tokens or tokens[0] not in self._backend.get_added_tokens_decoder():
            raise PromptError("there is no special token at the end of an answer")
        return tokens

    def message_at(self, request: Mapping[str, Any], token: int) -> int:
        """The number, from 0, of the message in whose text a token of `chat` stands, or before it; of as many
        as there are for what stands behind them.
        """
        text = self._renderer.render(request).text
        encoding = self._backend.encode(text, add_special_tokens=flag(request, "add_special_tokens"))
        characters = encoding.token_to_chars(token) if token < len(encoding) else None
        place = len(text) if characters is None else characters[0]
        end = 0
        for number, message in enumerate(request["messages"]):
            parts = message.get("content") or ()
            for part in [parts] if isinstance(parts, str) else parts:
                content = str(part.get("text") if isinstance(part, Mapping) else part).strip()
                found = text.find(content, end)
                end = found + len(content) if found >= 0 else end
            if place < end:
                return number
        return len(request["messages"])

    def completion(self, prompt: str | Sequence[int], add_special_tokens: bool = True) -> Prompt:
        """Tokenise one prompt of a text completion request, in full; token ids pass through."""
        if isinstance(prompt, str):
            _utf8(prompt)
            return Prompt(self._backend.encode(prompt, add_special_tokens=add_special_tokens).ids, 0)
        return Prompt(prompt, 0)

    def keyed_chat(
        self, request: Mapping[str, Any], root: bytes, block_size: int, marked: Sequence[Breakpoint] = ()
    ) -> PendingPrompt:
        """Render the body of a chat completion request, and look up how much of it is known.

        The result is that of `chat`, with block keys, and tokens counted where it is ``marked``. Raises
        `PromptError` like it.
        """
        text, position = self._renderer.render(request)
        opening_at = len(_utf8(text[:position])) if position >= 0 else -1
        special = flag(request, "add_special_tokens")
        return self._keyed_text(text, special, root, block_size, opening_at, marked)

    def keyed_completion(
        self, prompt: str | Sequence[int], root: bytes, block_size: int, add_special_tokens: bool = True
    ) -> PendingPrompt:
        """Look up how much of one prompt of a text completion request is known."""
        if isinstance(prompt, str):
            return self._keyed_text(prompt, add_special_tokens, root, block_size, -1)
        data, step = pack_tokens(prompt), TOKENS_PER_PART * TOKEN_BYTES
        cuts = [*range(step, len(data), step), len(data)]
        beginning = Beginning(root, block_size, is_text=False)
        return PendingPrompt(self.cache, beginning, data, cuts, _parts, least_tokens=len(prompt))

    @cached_property
    def merges_system(self) -> bool:
        """Whether the chat template refuses system messages in the middle of a conversation, as vLLM finds
        out for Anthropic's API.
        """
        return not self.has_chat_template or wants_system_first(self._renderer.templates)

    @cached_property
    def effort_without_thinking(self) -> str:
        """The reasoning effort by which vLLM disables thinking for Anthropic's API: ``low`` where the
        template does not know ``none``, or does not tell it from some other effort.
        """
        texts = {}
        for effort in EFFORTS:
            with suppress(PromptError):
                messages = [{"role": "user", "content": "Hi"}]
                texts[effort] = self._renderer.render({"messages": messages, "reasoning_effort": effort}).text
        none = texts.pop("none", None)
        return "low" if none is None or none in texts.values() else "none"

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the given tokens, special tokens left out."""
        return str(self._backend.decode(list(token_ids), skip_special_tokens=True))

    def _keyed_text(
        self,
        text: str,
        add_special_tokens: bool,
        root: bytes,
        block_size: int,
        opening_at: int,
        marked: Sequence[Breakpoint] = (),
    ) -> PendingPrompt:
        data = _utf8(text)
        front, back = self._surroundings if add_special_tokens else (b"", b"")
        return PendingPrompt(
            self.cache,
            Beginning(root, block_size, is_text=True, tokens=front),
            data,
            list(self._splits.cuts(data)),
            self._words.encode_parts,
            ending=back,
            opening_at=opening_at,
            tokens_before=self._words.tokens_before,
            least_tokens=len(data) // self._longest_token if self._longest_token else 0,
            marks=places_in(data, marked, opening_at) if marked else (),
        )

    def _find_surroundings(self) -> tuple[bytes, bytes]:
        """Packed special tokens that the tokenizer puts in front of a text and behind it."""
        plain = self._backend.encode("a", add_special_tokens=False).ids
        whole = self._backend.encode("a", add_special_tokens=True).ids
        front = next(number for number in range(len(whole)) if whole[number : number + len(plain)] == plain)
        return pack_tokens(whole[:front]), pack_tokens(whole[front + len(plain) :])


def _longest_token(backend: Any) -> int:
    """Bytes of the longest token; 0 where a token may stand for any number of them.

    Of byte-level BPE each character of a token stands for a byte of the text, which NFC, where the tokenizer
    begins with it, has made shorter by a factor below `NFC_SHRINKS`. Added tokens may take any amount of
    white space around them.
    """
    description = json.loads(backend.to_str())
    added = description.get("added_tokens") or []
    if word_rules(description) is None:
        return 0
    if any(token["lstrip"] or token["rstrip"] for token in added):
        return 0
    entries = max(map(len, description["model"]["vocab"]), default=0)
    longest = max([entries, *[len(token["content"].encode()) for token in added]])
    return longest * NFC_SHRINKS if description.get("normalizer") else longest


def _parts(data: bytes, ends: Sequence[int]) -> list[bytes]:
    return [data[start:end] for start, end in zip((0, *ends), ends, strict=False)]


def _utf8(text: str) -> bytes:
    """A text's bytes. Raises `PromptError` for half of a surrogate pair: no tokenizer takes it."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"the prompt is no valid Unicode text: {error}") from error
