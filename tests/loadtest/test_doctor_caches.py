"""The doctor's caches against the simplest ones that do the same."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.doctor.block_memory import BlockMemory, Reuse, VariantMemory
from loadtest.doctor.sizing import Curve, bytes_per_token, fleet_points

CHAINS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=40)


def chain(family: int, shared: int, own: int) -> np.ndarray:
    """Keys of a prompt: some that its family shares, then some of its own."""
    keys = [1000 * family + place + 1 for place in range(shared)]
    keys += [100_000 + 10_000 * family + 100 * shared + place for place in range(own)]
    return np.array(keys, dtype=np.uint64)


def lru_hits(prompts: list[np.ndarray], capacity: float) -> int:
    """Blocks found by one cache that drops what was not used for longest, prompt by prompt."""
    cache: OrderedDict[int, int] = OrderedDict()
    hits = 0
    for now, prompt in enumerate(prompts):
        for key in map(int, prompt):
            if key not in cache:
                break
            distance = sum(last >= cache[key] for last in cache.values())
            if distance > capacity:
                break
            hits += 1
        for key in map(int, prompt):
            cache[key] = now
    return hits


@given(CHAINS)
def test_hits_and_distances_are_those_of_a_plain_cache(chains):
    """The curve is near what a cache of each size finds, and never above it; at its end are all hits."""
    prompts = [chain(*one) for one in chains]
    memory = BlockMemory()
    hits = sum(memory.touch(prompt, 16 * len(prompt) + 1, 16) for prompt in prompts)
    assert hits == lru_hits(prompts, float("inf"))
    curve = Curve.of(memory.reuse)
    assert curve.hits[-1] == hits
    for capacity in (4, 8, 16, 32):
        assert curve.at(capacity) <= lru_hits(prompts, capacity)
        assert curve.at(1.2 * capacity + 1) >= lru_hits(prompts, capacity)


def test_the_last_token_of_a_prompt_is_always_computed():
    """A prompt of full blocks that is repeated finds all but its last block."""
    memory, keys = BlockMemory(), chain(0, 4, 0)
    assert [memory.touch(keys, 64, 16) for _ in range(2)] == [0, 3]


def test_a_full_memory_forgets_what_was_not_used_for_longest():
    """The bound holds, what is used often stays, and the books agree."""
    memory = BlockMemory(max_places=1 << 14)
    hot = chain(9, 6, 0)
    for number in range(4000):
        memory.touch(np.arange(10, dtype=np.uint64) + np.uint64(10**9 + 10 * number), 161, 16)
        hits = memory.touch(hot, 97, 16)
    assert hits == 6
    assert memory.num_blocks <= 0.75 * (1 << 14)
    assert memory.forgotten > 0
    assert memory.distinct == memory.num_blocks + memory.forgotten == 40_006


@given(st.lists(st.tuples(st.integers(1, 7), st.integers(0, 2), st.integers(1, 5)), max_size=30))
def test_variants_have_a_cache_each(touches):
    """One table answers as three separate caches do."""
    memory, caches = VariantMemory(3), [set(), set(), set()]
    for bits, family, length in touches:
        keys = chain(family, length, 0)
        leading = memory.touch(keys, bits)
        for number, cache in enumerate(caches):
            if bits >> number & 1:
                expected = next((n for n, key in enumerate(keys) if int(key) not in cache), len(keys))
                assert leading[number] == expected
                cache.update(map(int, keys))


def test_more_replicas_find_less_without_routing():
    """One replica finds the same either way; a block touched once is on each of N with chance 1/N."""
    reuse = Reuse(np.zeros((320, 256), dtype=np.int64))
    reuse.histogram[16, 1] = 100
    points = fleet_points(reuse, 3200, 16, 1000, 0)
    assert [point.aware for point in points] == pytest.approx([0.5] * 5)
    assert [point.blind for point in points] == pytest.approx([0.5 / point.replicas for point in points])


def test_bytes_per_token_are_read_from_the_model(tmp_path):
    """2 x layers x KV heads x head size x bytes; nothing when the file does not say."""
    assert bytes_per_token(tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    assert bytes_per_token(tmp_path) is None
    (tmp_path / "config.json").write_text(
        '{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096,'
        ' "torch_dtype": "bfloat16"}'
    )
    assert bytes_per_token(tmp_path) == 131_072
