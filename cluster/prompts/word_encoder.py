"""Tokens of a text, word by word from memory.

Byte-level BPE cuts a text into words and turns each into tokens by itself. Where the cutting is known
(`cluster/prompts/text_splits.py`), words of ASCII text that were met before need no BPE: about 0.1 us per
token instead of 2. Everything else goes to the tokenizer itself.
"""

import json
import secrets
import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

from cluster.prompts import word_kernels as kernels
from cluster.prompts.text_splits import WordRules, can_cut_words, sample_texts, word_rules
from cluster.protocol.block_keys import TOKEN_BYTES, pack_tokens

MAX_WORDS = 1 << 16
"""Words remembered, a power of two; then it begins anew."""
TEXT_BYTES, TOKENS = 2 * 1024 * 1024, 512 * 1024
"""Room for their bytes and tokens. With that they take at most 7 MB."""
BYTE_CHARACTERS = {byte: 256 + byte for byte in range(33)} | {127: 256 + 33}
"""How byte-level BPE writes those ASCII characters that it does not leave as they are."""
MAX_WORDWISE_BYTES = 64 * 1024
"""Longer parts, which have no place to be cut at, go to the tokenizer whole."""
MAX_TOKENS_PER_BYTE = 3
"""Of what is known: normalisation can make three bytes of one."""

Ends: TypeAlias = NDArray[np.int32]
Words: TypeAlias = tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.uint32], NDArray[np.int64]]


class WordEncoder:
    """Encodes with a `tokenizers.Tokenizer`; the same tokens, with no special tokens added.

    May be used from several threads.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._seed = secrets.randbits(64)
        description = json.loads(backend.to_str())
        added = description.get("added_tokens") or []
        rules = word_rules(description)
        plain = not any(
            token["normalized"] or token["lstrip"] or token["rstrip"] or token["single_word"]
            for token in added
        )
        self._rules: NDArray[np.int64] | None = None
        if rules is not None and can_cut_words(description) and plain and not backend.encode_special_tokens:
            self._prepare(rules, [token["content"] for token in added])
            if any(self.encode(text.encode()) != self._encode_whole(text) for text in sample_texts(added)):
                self._rules = None

    def _prepare(self, rules: WordRules, specials: list[str]) -> None:
        # The tokenizer takes the leftmost special token, and of several there the longest.
        encoded = sorted((content.encode() for content in specials), key=len, reverse=True)
        first_bytes = np.zeros(256, dtype=np.bool_)
        first_bytes[[content[0] for content in encoded]] = True
        self._rules = np.array(rules, dtype=np.int64)
        self._specials = (
            first_bytes,
            np.frombuffer(bytearray(b"".join(encoded)), dtype=np.uint8),
            np.cumsum([len(content) for content in encoded], dtype=np.int64),
        )
        self._special_ids = {content.encode(): self._backend.token_to_id(content) for content in specials}
        self._model = self._backend.model
        # Then the first token of a word holds its first character.
        self._knows_all_bytes = self._backend.get_vocab().keys() >= set(ByteLevel.alphabet())
        self._words = self._no_words()

    def _no_words(self) -> Words:
        return (
            np.zeros((2 * MAX_WORDS, 4), dtype=np.int32),
            np.empty(TEXT_BYTES, dtype=np.uint8),
            np.empty(TOKENS, dtype=np.uint32),
            np.zeros(3, dtype=np.int64),
        )

    def encode(self, text: bytes) -> bytes:
        """Packed tokens of a text in UTF-8."""
        if self._rules is None or not 0 < len(text) <= MAX_WORDWISE_BYTES:
            return self._encode_whole(text.decode())
        return self._encode_words(text, self._cut(text, self._rules), [len(text)])[0]

    def encode_parts(self, text: bytes, ends: Sequence[int]) -> list[bytes]:
        """Packed tokens of each part of a text, given where the parts end: where it may be cut."""
        if self._rules is not None and len(ends) > 1 and text.isascii():
            whole, counts = self._encode_words(text, self._cut(text, self._rules), ends)
            places = [TOKEN_BYTES * count for count in counts]
            return [whole[start:end] for start, end in zip((0, *places), places, strict=False)]
        return [self.encode(text[start:end]) for start, end in zip((0, *ends), ends, strict=False)]

    def _encode_whole(self, text: str) -> bytes:
        # `encode` would hold the GIL, and compute what nobody asks for.
        return pack_tokens(self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def _encode_word(self, word: bytes) -> list[int]:
        """Tokens of one word, of a special token, or of a stretch of text that is not ASCII."""
        if word in self._special_ids:
            return [self._special_ids[word]]
        if len(word) > kernels.MAX_WORD_BYTES or not word.isascii():
            [encoded] = self._backend.encode_batch_fast([word.decode()], add_special_tokens=False)
            return list(encoded.ids)
        # A seventh of what it costs to have the tokenizer find out that this is one word.
        return [token.id for token in self._model.tokenize(word.decode().translate(BYTE_CHARACTERS))]

    def _cut(self, text: bytes, rules: NDArray[np.int64]) -> Ends:
        """The ends of a text's words."""
        ends = np.empty(len(text), dtype=np.int32)
        data = np.frombuffer(text, dtype=np.uint8)
        return ends[: kernels.cut(data, text.isascii(), rules, *self._specials, ends)]

    def _encode_words(self, text: bytes, ends: Ends, stops: Sequence[int]) -> tuple[bytes, list[int]]:
        """Packed tokens of a text's words, given their ends, and how many stand before each of the stops."""
        found = np.empty(MAX_TOKENS_PER_BYTE * len(text), dtype=np.uint32)
        unknown = np.empty((len(ends), 3), dtype=np.int32)
        counts = np.array(stops, dtype=np.int64)
        data = np.frombuffer(text, dtype=np.uint8)
        num_unknown = kernels.look_up(data, ends, counts, self._seed, *self._words, found, unknown)
        if num_unknown < 0:
            raise ValueError("a text can be cut between words only")
        known, before = found[: counts[-1]].tobytes(), counts.tolist()
        if not num_unknown:
            return known, before
        return self._with_new(text, stops, known, before, unknown[:num_unknown].tolist())

    def _with_new(
        self, text: bytes, stops: Sequence[int], known: bytes, before: list[int], unknown: list[list[int]]
    ) -> tuple[bytes, list[int]]:
        """The same, given what is known, and begin, end and place of the words that are not; remembers
        these."""
        words = [text[start:end] for start, end, _ in unknown]
        tokens = [self._encode_word(word) for word in words]
        num_tokens = list(accumulate(map(len, tokens)))
        self._remember(
            b"".join(words),
            np.cumsum([len(word) for word in words], dtype=np.int32),
            np.array([token for ids in tokens for token in ids], dtype=np.uint32),
            np.array(num_tokens, dtype=np.int64),
        )
        pieces: list[bytes] = []
        done = 0
        for (_, _, place), ids in zip(unknown, tokens, strict=True):
            pieces += known[done : place * TOKEN_BYTES], pack_tokens(ids)
            done = place * TOKEN_BYTES
        unknown_ends = [end for _, end, _ in unknown]
        added = [0, *num_tokens]
        return b"".join([*pieces, known[done:]]), [
            count + added[bisect_right(unknown_ends, stop)] for count, stop in zip(before, stops, strict=True)
        ]

    def _remember(self, text: bytes, ends: Ends, ids: NDArray[np.uint32], id_ends: NDArray[np.int64]) -> None:
        data = np.frombuffer(text, dtype=np.uint8)
        with self._lock:
            if kernels.remember(data, ends, ids, id_ends, self._seed, *self._words) < len(ends):
                self._words = self._no_words()

    def tokens_before(self, text: bytes, position: int) -> int | None:
        """Index of the token that holds the character at a position, in bytes; None when none does."""
        if self._rules is None or len(text) > MAX_WORDWISE_BYTES or not text.isascii():
            return self._token_at(text, len(text[:position].decode()))
        ends = self._cut(text, self._rules)
        number = int(np.searchsorted(ends, position, side="right"))
        if number == len(ends):
            return None
        start = int(ends[number - 1]) if number else 0
        stops = [start, int(ends[number])] if number else [int(ends[number])]
        counts = [0, *self._encode_words(text, ends[: number + 1], stops)[1]]
        count = counts[-2]
        if position == start and self._knows_all_bytes:
            return count
        index = self._token_at(text[start : int(ends[number])], position - start)
        return None if index is None else count + index

    def _token_at(self, text: bytes, character: int) -> int | None:
        """Index of the token that holds a character of a text; None when none does."""
        # A batch of one: `encode` would hold the GIL.
        [encoding] = self._backend.encode_batch([text.decode()], add_special_tokens=False)
        index: int | None = encoding.char_to_token(character)
        return index
