"""The paged cache: blocks are neither lost nor invented, and its events say what can be hit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sim.paged_cache import Holding, PagedCache

BLOCK = 4
LENGTH = 6
"""Blocks of each text."""
TEXTS = [[*range(LENGTH)], [*range(3), *range(10, 13)], [*range(20, 20 + LENGTH)]]
"""Keys of texts, two of which share their beginning."""


def admit(cache, keys, num_tokens):
    """Hold blocks for a new request; None when it finds no room."""
    holding = Holding(keys)
    hits = cache.find_hits(holding, num_tokens)
    return holding if cache.grow(holding, num_tokens, hits) else None


def can_hit(cache, key):
    """Whether a block is in the cache, wherever its text begins."""
    return bool(cache.find_hits(Holding([key]), BLOCK + 1))


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(("admit", "grow", "free")), st.integers(0, 9), st.integers(1, LENGTH * BLOCK)),
    max_size=40,
)


@given(st.integers(1, 16), OPERATIONS)
def test_blocks_are_conserved(num_blocks, operations):
    """After every operation the cache holds exactly what live requests hold, within its size, and what can
    be hit is what events have announced.
    """
    cache, live, announced = PagedCache(num_blocks, BLOCK), [], set()
    for operation, which, num_tokens in operations:
        if operation == "admit":
            keys = TEXTS[which % len(TEXTS)]
            if holding := admit(cache, keys, num_tokens):
                live.append([holding, num_tokens])
        elif operation == "grow" and live:
            request = live[which % len(live)]
            longer = max(num_tokens, request[1])
            if cache.grow(request[0], longer):
                request[1] = longer
        elif live:
            cache.free(live.pop(which % len(live))[0])
        cache.check_integrity([holding for holding, _ in live])
        for holding, length in live:
            assert [block.key for block in holding.full] == holding.keys[: length // BLOCK]
            assert holding.num_partial == (length % BLOCK > 0)
        stored, removed = cache.take_events()
        assert announced.issuperset(removed)
        announced = announced - set(removed) | set(stored)
        assert {key for keys in TEXTS for key in keys if can_hit(cache, key)} == announced


def test_growing_beyond_the_free_blocks_is_refused():
    """A request that finds too few blocks changes nothing; with one block given back it fits."""
    cache = PagedCache(4, BLOCK)
    first, second = admit(cache, TEXTS[0], 2 * BLOCK), admit(cache, TEXTS[2], BLOCK)
    assert not cache.grow(first, 4 * BLOCK)
    cache.check_integrity([first, second])
    cache.free(second)
    assert cache.grow(first, 4 * BLOCK)
    assert cache.take_events() == ([0, 1, 20, 2, 3], [20])
    assert cache.evicted_blocks == 1


def test_tails_are_evicted_first():
    """The least recently freed request loses its blocks first, the last block before the first."""
    cache = PagedCache(6, BLOCK)
    old, new = admit(cache, TEXTS[0], 3 * BLOCK), admit(cache, TEXTS[2], 3 * BLOCK)
    cache.free(old)
    cache.free(new)
    cache.take_events()
    admit(cache, [30, 31, 32, 33], 4 * BLOCK)
    assert cache.take_events() == ([30, 31, 32, 33], [2, 1, 0, 22])


def test_last_token_is_always_computed():
    """A prompt that is all in the cache gets a second copy of its last block; the key goes with the last."""
    cache = PagedCache(4, BLOCK)
    first = admit(cache, TEXTS[0], 2 * BLOCK)
    assert len(cache.find_hits(Holding(TEXTS[0]), 2 * BLOCK)) == 1
    again = admit(cache, TEXTS[0], 2 * BLOCK)
    assert cache.take_events() == ([0, 1], [])
    cache.free(first)
    other = admit(cache, TEXTS[2], 2 * BLOCK)
    assert cache.evicted_blocks == 1
    assert cache.take_events() == ([20, 21], []), "one copy is left"
    cache.check_integrity([again, other])


def test_check_notices_what_does_not_add_up():
    """A request that nobody knows of, or one that holds nothing, is an error."""
    cache = PagedCache(8, BLOCK)
    holding = admit(cache, TEXTS[0], 2 * BLOCK + 1)
    cache.check_integrity([holding])
    with pytest.raises(AssertionError):
        cache.check_integrity([])
    with pytest.raises(AssertionError):
        cache.check_integrity([holding, holding])
