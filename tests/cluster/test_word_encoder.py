"""Words are cut as the tokenizers' regular expressions cut them, and their tokens are remembered exactly."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cluster.prompts import word_encoder
from cluster.prompts.text_splits import WORD_RULES
from cluster.prompts.word_encoder import WordEncoder
from cluster.prompts.word_kernels import cut
from tests.cluster.tokenizer_kinds import KINDS, build_kind

SPECIALS = ["<|im_start|>", "<|im", "<", "ab"]
ascii_texts = st.lists(
    st.sampled_from(
        [*SPECIALS, "'s", "'LL", "'re", "'", " ", "  ", "\n", "\r\n", "\t", "12345", "x", "Word", "..."]
    )
    | st.text(st.characters(max_codepoint=127), max_size=3),
    max_size=10,
).map("".join)


def ends_of(text, pattern, specials):
    """Where the kernel cuts."""
    encoded = [special.encode() for special in sorted(specials, key=len, reverse=True)]
    first = np.zeros(256, dtype=np.bool_)
    first[[special[0] for special in encoded]] = True
    ends = np.empty(len(text), dtype=np.int32)
    count = cut(
        np.frombuffer(text.encode(), dtype=np.uint8),
        True,
        np.array(WORD_RULES[pattern], dtype=np.int64),
        first,
        np.frombuffer(bytearray(b"".join(encoded)), dtype=np.uint8),
        np.cumsum([len(special) for special in encoded], dtype=np.int64),
        ends,
    )
    return ends[:count].tolist()


@pytest.mark.parametrize("pattern", WORD_RULES)
@given(text=ascii_texts, with_specials=st.booleans())
def test_words_end_where_the_regular_expression_says(pattern, text, with_specials):
    """For ASCII text, with special tokens taken out first: the leftmost, and of those the longest."""
    specials = SPECIALS if with_specials else []
    expression = re.compile(
        pattern.replace(r"^\s\p{L}\p{N}", r"^\sA-Za-z0-9").replace(r"^\r\n\p{L}\p{N}", r"^\r\nA-Za-z0-9")
        .replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]"),
        re.ASCII,
    )  # fmt: skip
    longest_first = "|".join(map(re.escape, sorted(specials, key=len, reverse=True)))
    pieces = re.split(f"({longest_first})", text) if specials else [text]
    words = [
        word
        for number, piece in enumerate(pieces)
        for word in ([piece] if number % 2 else expression.findall(piece))
    ]
    if text:
        assert ends_of(text, pattern, specials) == np.cumsum([len(word) for word in words]).tolist()


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    """A small tokenizer."""
    return Tokenizer.from_file(
        str(build_kind(KINDS["chatml"], tmp_path_factory.mktemp("kind")) / "tokenizer.json")
    )


def tokens_of(encoder, text):
    """What the encoder makes of a text."""
    return np.frombuffer(encoder.encode(text.encode()), "<u4").tolist()


@given(
    parts=st.lists(st.text(max_size=4) | st.sampled_from([" the", " water", "é"]), min_size=1, max_size=20)
)
def test_parts_are_encoded_as_each_alone(backend, parts):
    """Cut in front of special tokens, with new and known words."""
    encoder, texts = WordEncoder(backend), [f"<|im_start|>{part}" for part in parts]
    ends = np.cumsum([len(text.encode()) for text in texts]).tolist()
    for _ in range(2):
        packed = encoder.encode_parts("".join(texts).encode(), ends)
        assert [np.frombuffer(part, "<u4").tolist() for part in packed] == [
            backend.encode(text, add_special_tokens=False).ids for text in texts
        ]


@pytest.mark.parametrize("room", ["MAX_WORDS", "TEXT_BYTES", "TOKENS"])
def test_memory_is_bounded(backend, monkeypatch, room):
    """When there is no room for another word all are forgotten, and tokens stay right."""
    monkeypatch.setattr(word_encoder, room, 64)
    encoder = WordEncoder(backend)
    for number in range(300):
        text = f" w{number} is water"
        assert tokens_of(encoder, text) == backend.encode(text, add_special_tokens=False).ids
    assert len(encoder._words[0]) * encoder._words[0].itemsize * 4 + encoder._words[1].nbytes < 8_000_000


def test_long_words_are_not_remembered(backend):
    """They are encoded each time."""
    encoder = WordEncoder(backend)
    text = "x" * 5000 + " " + "water" * 100
    for _ in range(2):
        assert tokens_of(encoder, text) == backend.encode(text, add_special_tokens=False).ids


def test_text_is_cut_between_words_only(backend):
    """A part that ends inside a word is refused."""
    with pytest.raises(ValueError, match="between words"):
        WordEncoder(backend).encode_parts(b"the water", [2, 9])
