"""Where a text can be cut so that its parts give the same tokens as the whole.

Two kinds of places are safe, where the tokenizer is of a kind for which that is known:

- In front of a special token. The tokenizer cuts special tokens out before it does anything else, so what
  stands before one never meets what follows. A part that begins with one is not at the beginning of the text
  either, so that rules about the beginning of a text (a space put in front) hold for it as they do inside.
- Between a letter and a space before a letter, where text is cut into words by one of the well-known
  regular expressions for byte-level BPE: all of them end a word there, and none looks back.

Both are checked on the tokenizer's own description and then tried on random texts. What does not pass is not
used: then nothing is cut, and texts are tokenised in full.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, product
from typing import Any, NamedTuple

WORD_END = re.compile(rb"[A-Za-z](?= [A-Za-z])")
LOOKED_AHEAD = 2
"""Bytes that the end of a word needs behind it."""
CUT_BYTES = 2048
"""A part longer than this is cut at the next end of a word. Shorter parts cost more to look up, longer ones
more to tokenise again when the last one grows."""
SHORT_PARTS = 1024
"""So many parts of a text may be of any size; what follows is cut in front of a special token only where a
part has `CUT_BYTES`: a text of nothing but special tokens would have as many parts as tokens."""
SEARCH_BYTES = 64 * 1024
"""Searched for the end of a word in one go: a search holds the interpreter's lock, for a millisecond here."""


class WordRules(NamedTuple):
    """What tells the known regular expressions apart; `cluster.prompts.word_kernels` follows them."""

    ignore_case: int = 0
    """Whether ``'S`` is a word like ``'s``."""
    any_prefix: int = 0
    """Whether a word may begin with any character but a digit or the end of a line, and not only a space."""
    max_digits: int = 0
    """How many digits are a word; 0 for any number, with a space before them."""
    newlines: int = 0
    """Whether ends of lines belong to the punctuation or the white space before them."""


GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What is built into ByteLevel."""
CONTRACTIONS = {"'s|'t|'re|'ve|'m|'ll|'d": {}, "(?i:'s|'t|'re|'ve|'m|'ll|'d)": {"ignore_case": 1}}
LETTERS = {r" ?\p{L}+": {}, r"[^\r\n\p{L}\p{N}]?\p{L}+": {"any_prefix": 1}}
DIGITS = {r" ?\p{N}+": {}, r"\p{N}{1,3}": {"max_digits": 3}, r"\p{N}": {"max_digits": 1}}
OTHERS = {r" ?[^\s\p{L}\p{N}]+": {}, r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+": {"newlines": 1}}
WORD_RULES = {
    "|".join([*parts, r"\s+(?!\S)|\s+"]): WordRules(
        **CONTRACTIONS[parts[0]], **LETTERS[parts[1]], **DIGITS[parts[2]], **OTHERS[parts[3]]
    )
    for parts in product(CONTRACTIONS, LETTERS, DIGITS, OTHERS)
}
"""Known regular expressions: those of GPT-2, GPT-4, Llama 3, Qwen 2 and 3, and what lies between. None
matches a letter and a space after it, and none looks back."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Where texts can be cut for one tokenizer."""

    marker: bytes = b""
    """The special token to cut in front of; b"" for none."""
    words: bool = False
    """Whether long parts may be cut at the ends of words."""
    cut_bytes: int = CUT_BYTES

    def cuts(self, text: bytes) -> Iterator[int]:
        """Ends of all parts, in bytes from the beginning; the last one is the end of the text.

        All but the last depend only on what stands before them and just behind: a text that goes on
        differently is cut at the same places.
        """
        position, marked = 0, 0
        for number in count():
            if position >= len(text):
                return
            if marked <= position:
                shortest = 1 if number < SHORT_PARTS else CUT_BYTES
                marked = text.find(self.marker, position + shortest) if self.marker else -1
                marked = len(text) if marked < 0 else marked
            cut = marked
            if self.words and cut - position > self.cut_bytes:
                cut = _end_of_word(text, position + self.cut_bytes, cut)
            yield cut
            position = cut


def _end_of_word(text: bytes, start: int, end: int) -> int:
    """The first end of a word at which a text can be cut; ``end`` when there is none before it."""
    for position in range(start, end, SEARCH_BYTES):
        # What is looked at beyond the end of a stretch belongs to the next one, where a match begins anew.
        if word := WORD_END.search(text, position, min(position + SEARCH_BYTES + LOOKED_AHEAD, end)):
            return word.end()
    return end


def find_splits(backend: Any, sample: str) -> Splits:
    """The splits of a `tokenizers.Tokenizer`, given a text with the special tokens to be expected."""
    description = json.loads(backend.to_str())
    if description.get("truncation") or description.get("padding") or backend.encode_special_tokens:
        return Splits()
    added = description.get("added_tokens") or []
    marker = _marker(added, sample)
    words = can_cut_words(description)
    for splits in (Splits(marker, words), Splits(marker), Splits(words=words)):
        if splits != Splits() and _holds(backend, splits, added):
            return splits
    return Splits()


def can_cut_words(description: dict[str, Any]) -> bool:
    """Whether texts can be cut at the ends of words, as far as the tokenizer's JSON file tells."""
    added = description.get("added_tokens") or []
    return word_rules(description) is not None and not any(map(_disturbs_words, added))


def word_rules(description: dict[str, Any]) -> WordRules | None:
    """How a text is cut into words, as far as it is ASCII; None when that is unknown.

    Takes the tokenizer as its JSON file describes it. Known means: byte-level BPE, and every word becomes
    tokens by itself.
    """
    model, normalizer = description["model"], description.get("normalizer")
    affixes = (model.get("continuing_subword_prefix"), model.get("end_of_word_suffix"), model.get("dropout"))
    if model["type"] != "BPE" or any(affixes) or (normalizer and normalizer["type"] != "NFC"):
        return None
    match _steps(description.get("pre_tokenizer")):
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            pattern = GPT2_WORDS
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            pass
        case _:
            return None
    return WORD_RULES.get(pattern)


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    return pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]


def _marker(added: Sequence[dict[str, Any]], sample: str) -> bytes:
    """The special token that is most frequent in the sample, of those that can be cut in front of."""
    raw = [token["content"] for token in added if not token["normalized"]]
    fit = [
        token["content"]
        for token in added
        if token["special"]
        and not (token["normalized"] or token["lstrip"] or token["rstrip"] or token["single_word"])
        and not (token["content"][0].isalnum() or token["content"][0] == "_")
        and not any(_overlap(token["content"], other) for other in raw)
    ]
    best = max(fit, key=sample.count, default="")
    return best.encode() if best and best in sample else b""


def _overlap(marker: str, other: str) -> bool:
    """Whether an occurrence of one could share characters with one of the other, so that only one counts."""
    if marker == other:
        return any(marker.startswith(marker[start:]) for start in range(1, len(marker)))
    return (
        marker in other
        or any(marker.startswith(other[start:]) for start in range(1, len(other)))
        or any(other.startswith(marker[start:]) for start in range(1, len(marker)))
    )


def _disturbs_words(token: dict[str, Any]) -> bool:
    """Whether an added token could reach across the end of a word, or see what stands beyond it."""
    content = token["content"]
    if re.search("[A-Za-z] ", content):
        return True
    looks_around = token["lstrip"] or token["rstrip"] or token["single_word"]
    return bool(looks_around and (content[0].isalpha() or content[-1].isalpha()))


def sample_texts(added: Sequence[dict[str, Any]], marker: str = "") -> list[str]:
    """Random texts that try hard to be cut wrongly; the same in every process."""
    dice = random.Random(0)
    tokens = [token["content"] for token in added[:64]]
    parts = [*"aB  \n\t\r'.7é中🚀\u0301", "the", " of", " I'll", "  x", " 123", "...", "\r\n", *tokens]
    ascii_parts = [part for part in parts if part.isascii()]
    return [
        "".join(dice.choices([*chosen, marker], k=40)) for chosen in (parts, ascii_parts) for _ in range(100)
    ]


def _holds(backend: Any, splits: Splits, added: Sequence[dict[str, Any]]) -> bool:
    """Whether random texts give the same tokens whole and in parts."""
    for number, text in enumerate(sample_texts(added, splits.marker.decode())):
        data, start, parts = text.encode(), 0, []
        for cut in replace(splits, cut_bytes=number % 12).cuts(data):
            parts.append(data[start:cut].decode())
            start = cut
        encodings = backend.encode_batch_fast(parts, add_special_tokens=False)
        whole = backend.encode(text, add_special_tokens=False).ids
        if list(chain.from_iterable(encoding.ids for encoding in encodings)) != whole:
            return False
    return True
