"""Tokens of a text, word by word from memory.

Byte-level BPE cuts a text into words and turns each into tokens by itself. Where the cutting is known
(`cluster/text_splits.py`), words of ASCII text that were met before need no BPE: about 0.2 us per token
instead of 2. Everything else goes to the tokenizer itself.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from cluster.block_keys import TOKEN_BYTES, pack_tokens, unpack_tokens
from cluster.text_splits import can_cut_words, sample_texts, word_pattern

WORD_BORDER = re.compile("(?<=[A-Za-z])(?= [A-Za-z])")

MAX_WORDS = 50_000
"""Words remembered, about 8 MB and at most 30; then it begins anew."""
SINGLE_WORD_COST = 5
"""What it costs to encode a word by itself, in words of a text that is encoded as a whole."""
MAX_WORD_BYTES = 128
"""Longer words are rare, and not remembered."""


class WordEncoder:
    """Encodes with a `tokenizers.Tokenizer`; the same tokens, with no special tokens added."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._words: dict[str, bytes] = {}
        self._token_lengths: dict[int, int] = {}
        description = json.loads(backend.to_str())
        added = description.get("added_tokens") or []
        plain = not any(
            token["normalized"] or token["lstrip"] or token["rstrip"] or token["single_word"]
            for token in added
        )
        self._cut: Callable[[str], list[str]] | None = None
        if can_cut_words(description) and plain and not backend.encode_special_tokens:
            # The tokenizer takes the leftmost special token, and of several there the longest.
            contents = sorted((token["content"] for token in added), key=len, reverse=True)
            self._specials = re.compile(f"({'|'.join(map(re.escape, contents))})") if contents else None
            self._pattern = re.compile(word_pattern(description), re.ASCII)
            self._cut = self._cut_words
            if any(self.encode(text.encode()) != self._encode_whole(text) for text in sample_texts(added)):
                self._cut = None

    def encode(self, text: bytes) -> bytes:
        """Packed tokens of a text in UTF-8."""
        string, known = text.decode(), self._words
        if self._cut is None:
            return self._encode_whole(string)
        words = self._cut(string)
        try:
            return b"".join([known[word] for word in words])
        except KeyError:
            return self._encode_new(string, words)

    def _encode_whole(self, text: str) -> bytes:
        # `encode` would hold the GIL, and compute what nobody asks for.
        return pack_tokens(self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def _encode_new(self, text: str, words: list[str]) -> bytes:
        """Tokens of a text whose words are not all known; remembers them."""
        tokens = {word: self._words.get(word, b"") for word in words}
        new = [word for word, packed in tokens.items() if not packed]
        if len(new) * SINGLE_WORD_COST < len(words) or not text.isascii():
            encodings = self._backend.encode_batch_fast(new, add_special_tokens=False)
            tokens.update((word, pack_tokens(found.ids)) for word, found in zip(new, encodings, strict=True))
            whole = b"".join([tokens[word] for word in words])
        else:
            whole = self._encode_whole(text)
            tokens = self._tokens_of_words(words, whole)
            new = [word for word in new if word in tokens]
        if len(self._words) + len(new) > MAX_WORDS:
            self._words.clear()
        self._words.update((word, tokens[word]) for word in new[:MAX_WORDS] if len(word) <= MAX_WORD_BYTES)
        return whole

    def _tokens_of_words(self, words: list[str], tokens: bytes) -> dict[str, bytes]:
        """Each word's share of an ASCII text's packed tokens; nothing where they do not add up to the words.

        Byte-level tokens have a character for each byte. A tokenizer without some of the bytes drops them.
        """
        shares, lengths, start = {}, self._token_lengths, 0
        token_ids = unpack_tokens(tokens)
        for word in words:
            end, length = start, 0
            while length < len(word) and end < len(token_ids):
                token = token_ids[end]
                length += lengths.get(token) or lengths.setdefault(
                    token, len(self._backend.id_to_token(token))
                )
                end += 1
            if length != len(word):
                return {}
            shares[word] = tokens[start * TOKEN_BYTES : end * TOKEN_BYTES]
            start = end
        return shares

    def _cut_words(self, text: str) -> list[str]:
        """A text in words; what is not ASCII in stretches up to the next places where it can be cut."""
        if text.isascii():
            return self._cut_ascii(text)
        words: list[str] = []
        for stretch in WORD_BORDER.split(text):
            words += self._cut_ascii(stretch) if stretch.isascii() else [stretch]
        return words

    def _cut_ascii(self, text: str) -> list[str]:
        if self._specials is None:
            return self._pattern.findall(text)
        words: list[str] = []
        for number, part in enumerate(self._specials.split(text)):
            if number % 2:
                words.append(part)
            else:
                words += self._pattern.findall(part)
        return words

    def tokens_before(self, text: bytes, position: int) -> int | None:
        """Index of the token that holds the character at a position, in bytes; None when none does."""
        if self._cut is None or not text.isascii():
            encoding = self._backend.encode(text.decode(), add_special_tokens=False)
            return encoding.char_to_token(len(text[:position].decode()))  # type: ignore[no-any-return]
        count = start = 0
        for word in self._cut(text.decode("ascii")):
            if start + len(word) > position:
                encoding = self._backend.encode(word, add_special_tokens=False)
                index = encoding.char_to_token(position - start)
                return None if index is None else count + index
            start += len(word)
            count += len(self.encode(word.encode())) // TOKEN_BYTES
        return None
