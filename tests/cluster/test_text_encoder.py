"""Parts of texts have the tokens that the tokenizer itself gives them, also by `fastokens`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cluster.prompts.text_encoder import TextEncoder
from cluster.prompts.text_splits import find_splits
from cluster.protocol.block_keys import unpack_tokens
from tests.cluster.tokenizer_kinds import KINDS, build_kind

FAST = {"chatml", "parts", "llama3", "qwen", "overlapping markers", "nested markers", "stripping"}
"""Kinds that `fastokens` is used for."""


@pytest.fixture(scope="module")
def backends(tmp_path_factory):
    """Small tokenizers of all kinds."""
    return {
        name: Tokenizer.from_file(str(build_kind(kind, tmp_path_factory.mktemp("kind")) / "tokenizer.json"))
        for name, kind in KINDS.items()
    }


@pytest.fixture(scope="module")
def encoders(backends):
    """What encodes for each of them."""
    return {
        name: TextEncoder(backend, find_splits(backend, KINDS[name].template))
        for name, backend in backends.items()
    }


@pytest.mark.parametrize("name", KINDS)
def test_fast_encoder_is_used_where_it_is_known_to_agree(encoders, name):
    """For byte-level BPE with well-known words, if the bytes of usual texts have tokens."""
    assert (encoders[name]._fast is not None) == (name in FAST)


@given(
    parts=st.lists(
        st.text(max_size=4) | st.sampled_from([" the", " water", "é", "  \n", "I'LL", "12345", "<|im"]),
        min_size=1,
        max_size=20,
    )
)
def test_parts_are_encoded_as_each_alone(backends, encoders, parts):
    """Whatever the kind of the tokenizer."""
    texts = [f"<|im_start|>{part}" for part in parts]
    ends = np.cumsum([len(text.encode()) for text in texts]).tolist()
    for name, backend in backends.items():
        packed = encoders[name].encode_parts("".join(texts).encode(), ends)
        assert [list(unpack_tokens(part)) for part in packed] == [
            backend.encode(text, add_special_tokens=False).ids for text in texts
        ], name


@pytest.mark.parametrize("stretch", ["x", "\0", " ", "\n \t", "é中🚀", "'", "1", "\x7f\x80"])
def test_odd_text_is_encoded_like_any_other(backends, encoders, stretch):
    """What has no end of a word for long is not refused."""
    text = stretch * 100_000
    for name in ("chatml", "llama3"):
        [packed] = encoders[name].encode_parts(text.encode(), [len(text.encode())])
        assert list(unpack_tokens(packed)) == backends[name].encode(text, add_special_tokens=False).ids
