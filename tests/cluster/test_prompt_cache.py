"""What the cache holds, and what goes when it is full."""

import gc
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from cluster.prompts.prompt_cache import SEGMENT_BYTES, PromptCache, Segment

SEGMENT = Segment(16, b"8" * 8, b"", b"8" * 8)
paths = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), max_size=30)


def held_after(cache, prompts):
    """Keep the segments of these prompts, one after the other; what each leaves behind."""
    for prompt in prompts:
        digests = [bytes(prompt[: end + 1]) for end in range(len(prompt))]
        cache.keep(digests, [SEGMENT] * len(digests))
        yield set(cache._segments)


@given(paths, st.integers(1, 8))
def test_prompts_lose_their_ends_first(prompts, room):
    """Nothing is held whose beginning is not, and never more than allowed; the last prompt's beginning is."""
    cache = PromptCache(max_bytes=room * (SEGMENT_BYTES + 8))
    for prompt, held in zip(prompts, held_after(cache, prompts), strict=True):
        assert all(digest[:-1] in held for digest in held if len(digest) > 1)
        assert len(held) <= room
        assert cache.num_bytes == len(held) * (SEGMENT_BYTES + 8) <= cache.max_bytes
        assert cache.get(bytes(prompt[:1])) == SEGMENT


def test_least_recently_used_goes_first():
    """A prompt that was used again outlives one that came later."""
    cache = PromptCache(max_bytes=2 * (SEGMENT_BYTES + 8))
    *_, held = held_after(cache, [[1], [2], [1], [3]])
    assert held == {b"\1", b"\3"}


def test_hashes_differ_between_caches_and_beginnings():
    """Nobody can prepare a prompt that hashes like another one, and namespaces share nothing."""
    cache = PromptCache()
    assert cache.hasher(b"a").digest() == cache.hasher(b"a").digest()
    assert cache.hasher(b"a").digest() != cache.hasher(b"b").digest()
    assert cache.hasher(b"a").digest() != PromptCache().hasher(b"a").digest()


def test_memory_is_counted_honestly():
    """What is counted is what Python needs, within a quarter."""
    cache = PromptCache()
    gc.collect()
    tracemalloc.start()
    for number in range(5000):
        keys = number.to_bytes(8, "big") * 20
        segment = Segment(1000 + number, keys[:8], keys[:36], keys)
        cache.keep([number.to_bytes(16, "big")], [segment])
    measured = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.75 < measured / cache.num_bytes < 1.25
