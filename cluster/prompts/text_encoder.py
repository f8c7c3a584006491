"""Tokens of the parts of a text: by `fastokens` where it is known to give the tokenizer's own.

That takes a tenth of the time that `tokenizers` needs, or less. The rest is left to `tokenizers`: other kinds
than byte-level BPE with well-known words, and a tokenizer for which the two differ on random texts.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from cluster.prompts.text_splits import Splits, cuts_known_words, sample_texts
from cluster.protocol.block_keys import pack_tokens


class TextEncoder:
    """Encodes with a `tokenizers.Tokenizer`; the same tokens, with no special tokens added.

    May be used from several threads: none of the calls holds the GIL.
    """

    def __init__(self, backend: Any, splits: Splits) -> None:
        self._backend = backend
        self._splits = splits
        self._fast = _fast_tokenizer(backend)

    def encode_parts(self, text: bytes, ends: Sequence[int]) -> list[bytes]:
        """Packed tokens of each part of a text in UTF-8, given where the parts end: where it may be cut."""
        parts = [text[start:end].decode() for start, end in zip((0, *ends), ends, strict=False)]
        if self._fast is not None:
            with suppress(ValueError):  # a byte that has no token, which `tokenizers` leaves out
                return _encoded(self._fast, parts)
        encodings = self._backend.encode_batch_fast(parts, add_special_tokens=False)
        return [pack_tokens(encoding.ids) for encoding in encodings]

    def tokens_before(self, text: bytes, position: int) -> int | None:
        """Index of the token that holds the character at a position, in bytes; None when none does."""
        end = self._splits.end_of_word(text, position)
        # A batch of one: `encode` would hold the GIL.
        [encoding] = self._backend.encode_batch([text[:end].decode()], add_special_tokens=False)
        index: int | None = encoding.char_to_token(len(text[:position].decode()))
        return index


def _encoded(fast: Any, parts: list[str]) -> list[bytes]:
    # One by one: with more at a time its threads cost more than they save.
    return [fast.encode_batch_flat([part])[0] for part in parts]


def _fast_tokenizer(backend: Any) -> Any:
    """The same tokenizer of `fastokens`; None where it is not known to give the same tokens."""
    if find_spec("fastokens") is None:  # there are no wheels of it for this kind of processor
        return None
    import fastokens

    description = json.loads(backend.to_str())
    shortens = description.get("truncation") or description.get("padding")
    if shortens or backend.encode_special_tokens or not cuts_known_words(description):
        return None
    texts = sample_texts(description.get("added_tokens") or [])
    whole = [pack_tokens(backend.encode(text, add_special_tokens=False).ids) for text in texts]
    try:
        fast = fastokens.Tokenizer.from_json_str(backend.to_str())
        return fast if _encoded(fast, texts) == whole else None
    except ValueError:  # it does not take such tokenizers
        return None
