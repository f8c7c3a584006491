"""Block keys: equal keys mean equal tokens and equal everything before them."""

from itertools import product

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from cluster.protocol.block_keys import Namespace, block_key, block_keys, pack_keys, pack_tokens, unpack_keys

tokens = st.lists(st.integers(0, 3), max_size=24)
any_tokens = st.lists(st.integers(0, 2**32 - 1), max_size=60)
block_sizes = st.sampled_from([1, 2, 3, 16])
texts = st.text(max_size=6)
namespaces = st.builds(Namespace, texts, st.integers(1, 256), texts, texts)


def formula(root, token_ids, block_size):
    """key[i] = xxh3_64(key[i-1] + tokens[i]) as DESIGN.md states it, one token at a time."""
    keys, parent = [], root
    for number in range(len(token_ids) // block_size):
        block = token_ids[number * block_size : (number + 1) * block_size]
        data = parent + b"".join(token.to_bytes(4, "little") for token in block)
        parent = xxhash.xxh3_64_intdigest(data).to_bytes(8, "big")
        keys.append(int.from_bytes(parent, "big"))
    return keys


@given(namespaces, any_tokens, block_sizes)
def test_keys_follow_the_formula(namespace, token_ids, block_size):
    """One key for each full block and none for the tail, as the design's formula says."""
    assert block_keys(namespace.root(), token_ids, block_size) == formula(
        namespace.root(), token_ids, block_size
    )


@given(any_tokens, block_sizes)
def test_agent_and_router_compute_the_same_keys(token_ids, block_size):
    """Block by block from the parent's key, as agents do, gives what routers compute from the whole."""
    root = Namespace("t", block_size).root()
    parent, keys = root, []
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        parent = block_key(parent, pack_tokens(token_ids[start : start + block_size]))
        keys.append(int.from_bytes(parent, "big"))
    assert keys == block_keys(root, token_ids, block_size)


@given(tokens, tokens, block_sizes)
def test_keys_are_equal_exactly_for_equal_prefixes(left, right, block_size):
    """Two prompts share as many leading keys as they share full leading blocks, and none after that."""
    root = Namespace("t", block_size).root()
    left_keys, right_keys = block_keys(root, left, block_size), block_keys(root, right, block_size)
    for depth, (one, other) in enumerate(zip(left_keys, right_keys, strict=False), start=1):
        assert (one == other) == (left[: depth * block_size] == right[: depth * block_size])


@given(namespaces, namespaces)
def test_namespaces_separate(one, other):
    """Roots are equal exactly when every part of the namespace is."""
    assert (one.root() == other.root()) == (one == other)


def test_namespace_parts_do_not_run_into_each_other():
    """Moving a character from one field to the next is another namespace."""
    fields = [
        ("c", 1, "ab", "c"),
        ("c", 1, "a", "bc"),
        ("c1", 1, "ab", ""),
        ("c", 11, "ab", ""),
        ("c", 1, "ab", ""),
        ("c", 1, "", "ab"),
    ]
    roots = {Namespace(*field).root() for field in fields}
    assert len(roots) == len(fields)
    assert all(len(root) == 8 for root in roots)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_packed_keys_unpack(keys):
    """Packing is 8 big-endian bytes each, and can be undone."""
    packed = pack_keys(keys)
    assert packed == b"".join(key.to_bytes(8, "big") for key in keys)
    assert unpack_keys(packed) == keys


@pytest.mark.parametrize("length", [1, 7, 9])
def test_half_a_key_is_an_error(length):
    """A length that is not a multiple of 8 is not silently cut."""
    with pytest.raises(ValueError, match="multiple"):
        unpack_keys(b"x" * length)


def test_keys_can_be_told_from_each_other():
    """All 4,096 prompts of 12 binary tokens have different last keys."""
    root = Namespace("", 12).root()
    assert len({block_keys(root, bits, 12)[-1] for bits in product((0, 1), repeat=12)}) == 4096
