"""Prompts on their way: shared beginnings are stored once, and nothing is left when all have ended."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cluster.index.radix_tree import RadixTree

paths = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2), max_size=6), st.booleans()), max_size=20
)


def test_shared_beginning_is_stored_once():
    """Paths part where they differ, whichever came first."""
    tree = RadixTree()
    tree.add(0, [1, 2, 3, 4])
    tree.add(1, [1, 2, 9])
    assert list(tree.spans([1, 2, 3, 4, 5], 0)) == [(0, 2, 0b11), (2, 4, 0b01)]
    assert list(tree.spans([1, 2, 9], 0)) == [(0, 2, 0b11), (2, 3, 0b10)]
    assert list(tree.spans([1, 7], 0)) == [(0, 1, 0b11)]


def test_path_may_begin_in_the_middle_of_a_prompt():
    """Of a prompt whose beginning is held already, only the rest is on its way."""
    tree = RadixTree()
    tree.add(2, [3, 4])
    assert list(tree.spans([1, 2, 3, 4], 2)) == [(2, 4, 0b100)]
    assert list(tree.spans([1, 2, 3, 4], 0)) == []


@given(paths)
def test_counts_are_those_of_the_paths(steps):
    """Any keys, in any order of coming and going; a slot may have the same path several times."""
    tree, present = RadixTree(), []
    for slot, keys, ends in steps:
        tree.add(slot, keys)
        present.append((slot, keys))
        if ends:
            tree.remove(*present.pop(len(keys) % len(present)))
        assert tree.counts() == Counter((slot, key) for slot, keys in present for key in keys)
    for slot, keys in present:
        tree.remove(slot, keys)
    assert not tree.starts
