"""Engines without inference: what they announce is what a real engine with a full cache would."""

from itertools import pairwise

import pytest

from cluster.protocol.block_keys import block_keys
from loadtest.harness.block_engines import (
    BLOCK_SIZE,
    CONVERSATION_BATCHES,
    ROOT,
    BlockCache,
)
from workers.sim.block_manager import BlockRemoved, BlockStored


def advance(cache, count):
    """So many batches and their events."""
    return [cache.advance() for _ in range(count)]


def held_after(announced):
    """What somebody believes to be held who follows the events."""
    held = set()
    for _, events in announced:
        for event in events:
            if isinstance(event, BlockRemoved):
                assert held.issuperset(event.block_hashes)
                held.difference_update(event.block_hashes)
            elif isinstance(event, BlockStored):
                assert held.isdisjoint(event.block_hashes)
                held.update(event.block_hashes)
    return held


def test_a_full_cache_removes_as_much_as_it_stores():
    """From the batch on that finds no room, the number of blocks stays the same."""
    cache = BlockCache(0, capacity=100, blocks_per_batch=10)
    for number in range(50):
        cache.advance()
        assert cache.num_blocks == min(100, (number + 1) * 10)


def test_events_tell_what_the_cache_holds():
    """Who applies every event in order ends with the blocks that `held` names."""
    cache = BlockCache(3, capacity=90, blocks_per_batch=10)
    announced = advance(cache, 77)
    assert held_after(announced) == {block for batch in cache.held() for block in batch.hashes()}


def test_a_conversation_continues_where_its_last_batch_ended():
    """Only the first batch of a conversation has no parent; the others follow the last block before them."""
    announced = advance(BlockCache(0, capacity=1000, blocks_per_batch=5), 2 * CONVERSATION_BATCHES)
    stored = [events[-1] for _, events in announced]
    assert [event.parent_block_hash is None for event in stored].count(True) == 2
    for before, after in pairwise(stored[:CONVERSATION_BATCHES]):
        assert after.parent_block_hash == before.block_hashes[-1]


def test_keys_are_those_of_the_whole_conversation():
    """A batch's keys equal what a router computes for the prompt that holds all its tokens so far."""
    batches = [batch for batch, _ in advance(BlockCache(1, 1000, 5), CONVERSATION_BATCHES)]
    prompt = [token for batch in batches for token in batch.tokens()]
    expected = block_keys(ROOT, prompt, BLOCK_SIZE)
    assert [key for batch in batches for key in batch.block_keys()] == expected
    assert batches[-1].last_key == expected[-1]


def test_no_two_blocks_have_the_same_key():
    """Neither on one engine nor on two."""
    batches = [batch for engine in range(2) for batch, _ in advance(BlockCache(engine, 1000, 5), 40)]
    keys = [key for batch in batches for key in batch.block_keys()]
    assert len(set(keys)) == len(keys)


def test_a_conversation_is_removed_from_its_end():
    """No block is held whose predecessor is not."""
    cache = BlockCache(0, capacity=100, blocks_per_batch=10)
    advance(cache, 33)
    held = set(cache.held())
    assert all(batch.previous is None or batch.previous in held for batch in held)


def test_a_cache_that_is_too_small_is_refused():
    """It could not hold two conversations."""
    with pytest.raises(SystemExit, match="too small"):
        BlockCache(0, capacity=10, blocks_per_batch=5)
