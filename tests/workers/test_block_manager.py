"""The paged prefix cache: what is hit, what is evicted, what is announced, and that nothing is ever lost."""

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workers.sim.block_manager import (
    AllBlocksCleared,
    BlockManager,
    BlockRemoved,
    BlockStored,
    Lora,
    TokenChain,
)

BLOCK = 4


def make(num_blocks=16):
    """Build a cache and the list of its events."""
    events = []
    return BlockManager(num_blocks, BLOCK, hash_seed=7, emit=events.append), events


def hits_of(blocks, chain):
    """The blocks that a chain finds."""
    return blocks.find_hits(chain, len(chain.tokens))


def compute(blocks, tokens, **identity):
    """Run a chain through the cache; returns it, still holding its blocks, and how many it hit."""
    chain = TokenChain(list(tokens), **identity)
    hits = hits_of(blocks, chain)
    assert blocks.grow(chain, len(tokens), hits)
    return chain, len(hits)


def test_repeated_prompt_hits_all_but_the_last_token():
    """A prompt of two full blocks hits one of them only: its last token must be computed."""
    blocks, _ = make()
    first, _ = compute(blocks, range(8))
    blocks.free(first)
    assert compute(blocks, range(8))[1] == 1
    assert compute(blocks, range(9))[1] == 2


def test_partial_blocks_are_never_hit():
    """Only full blocks are cached."""
    blocks, _ = make()
    compute(blocks, range(7))
    assert compute(blocks, range(7))[1] == 1


def test_salt_and_adapter_separate_chains():
    """The same tokens under another cache salt or LoRA adapter are other blocks."""
    blocks, _ = make(64)
    compute(blocks, range(9))
    assert compute(blocks, range(9), cache_salt="tenant")[1] == 0
    assert compute(blocks, range(9), cache_salt="tenant")[1] == 2
    assert compute(blocks, range(9), lora=Lora(1, "adapter"))[1] == 0


def test_stored_event_describes_the_blocks():
    """An event carries the parent, the tokens and one entry of extra keys per block."""
    blocks, events = make()
    chain = TokenChain(list(range(9)), cache_salt="salt", lora=Lora(3, "adapter"))
    blocks.grow(chain, 5)
    blocks.grow(chain, 9)
    first, second = events
    assert (first.parent_block_hash, first.token_ids) == (None, [0, 1, 2, 3])
    assert first.extra_keys == [("adapter", "salt")]
    assert (second.parent_block_hash, second.token_ids) == (first.block_hashes[0], [4, 5, 6, 7])
    assert second.extra_keys == [("adapter",)]
    assert (second.lora_id, second.lora_name, second.block_size) == (3, "adapter", BLOCK)


def test_hashes_depend_on_the_seed():
    """Two engine processes announce different hashes for the same tokens."""
    hashes = []
    for seed in (1, 2):
        events = []
        blocks = BlockManager(4, BLOCK, seed, events.append)
        compute(blocks, range(4))
        hashes.append(events[0].block_hashes)
    assert hashes[0] != hashes[1]


def test_tails_are_evicted_first():
    """When blocks run short, a freed chain loses its end and keeps its beginning."""
    blocks, events = make(num_blocks=4)
    old, _ = compute(blocks, range(16))
    tail = old.hashes[-1]
    blocks.free(old)
    newcomer, _ = compute(blocks, range(100, 104))
    assert events[-2] == BlockRemoved(block_hashes=[tail], medium="GPU", group_idx=0)
    blocks.free(newcomer)
    assert len(hits_of(blocks, TokenChain(list(range(16))))) == 3


def test_least_recently_freed_chain_goes_first():
    """A chain that was used again outlives one that was not."""
    blocks, _ = make(num_blocks=4)
    for start in (0, 100, 0):
        chain, _ = compute(blocks, range(start, start + 5))
        blocks.free(chain)
    compute(blocks, range(200, 212))
    assert len(hits_of(blocks, TokenChain(list(range(5))))) == 1
    assert len(hits_of(blocks, TokenChain(list(range(100, 105))))) == 0


def test_two_copies_of_a_block_are_announced_and_removed_apart():
    """Requests that compute the same block side by side store it twice; it can be hit until both are gone."""
    blocks, events = make(num_blocks=2)
    chains = [TokenChain(list(range(4))) for _ in range(2)]
    for chain in chains:
        assert blocks.grow(chain, 4)
    assert [type(event) for event in events] == [BlockStored, BlockStored]
    blocks.free(chains[0])
    blocks.grow(TokenChain([9] * 4), 4)
    assert len(hits_of(blocks, TokenChain(list(range(5))))) == 1
    assert sum(isinstance(event, BlockRemoved) for event in events) == 1


def test_growing_past_the_capacity_changes_nothing():
    """A refused growth holds no block, not even the hits."""
    blocks, _ = make(num_blocks=2)
    chain, _ = compute(blocks, range(8))
    blocks.free(chain)
    wanted = TokenChain(list(range(12)))
    hits = hits_of(blocks, wanted)
    assert not blocks.grow(wanted, 12, hits)
    assert (wanted.full, blocks.usage) == ([], 0)


def test_clear_waits_for_holders():
    """A cache in use is not cleared; an idle one is, and says so."""
    blocks, events = make()
    chain, _ = compute(blocks, range(8))
    assert not blocks.clear()
    blocks.free(chain)
    assert blocks.clear()
    assert events[-1] == AllBlocksCleared()
    assert hits_of(blocks, TokenChain(list(range(9)))) == []


def test_integrity_check_notices_a_leak():
    """A block that is held by no known chain is an error."""
    blocks, _ = make()
    compute(blocks, range(8))
    with pytest.raises(AssertionError):
        blocks.check_integrity([])


class CacheMachine(RuleBasedStateMachine):
    """Any order of operations, against a model that reads only the events."""

    def __init__(self):
        super().__init__()
        self.blocks, self.events = make(num_blocks=12)
        self.live = []
        self.announced = Counter()
        self.prefix_of = {}

    def absorb_events(self):
        for event in self.events:
            if isinstance(event, BlockStored):
                self._absorb_stored(event)
            elif isinstance(event, BlockRemoved):
                self.announced[event.block_hashes[0]] -= 1
            else:
                self.announced.clear()
        self.events.clear()

    def _absorb_stored(self, event):
        prefix = () if event.parent_block_hash is None else self.prefix_of[event.parent_block_hash]
        for index, block_hash in enumerate(event.block_hashes):
            salt = event.extra_keys[index]
            prefix = (*prefix, salt, *event.token_ids[index * BLOCK : (index + 1) * BLOCK])
            assert self.prefix_of.setdefault(block_hash, prefix) == prefix
            self.announced[block_hash] += 1

    @rule(
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=24),
        salt=st.sampled_from([None, "salt"]),
        share=st.floats(0, 1),
    )
    def admit(self, tokens, salt, share):
        chain = TokenChain(tokens, salt)
        hits = hits_of(self.blocks, chain)
        assert len(hits) * BLOCK < len(tokens)
        self.absorb_events()
        assert all(self.announced[block_hash] > 0 for block_hash in chain.hashes[: len(hits)])
        beyond = chain.hashes[len(hits) : (len(tokens) - 1) // BLOCK][:1]
        assert all(self.announced[block_hash] == 0 for block_hash in beyond)
        num_tokens = max(len(hits) * BLOCK + 1, round(len(tokens) * share))
        if self.blocks.grow(chain, num_tokens, hits):
            self.live.append(chain)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), token=st.integers(0, 1))
    def decode(self, data, token):
        chain = data.draw(st.sampled_from(self.live))
        chain.tokens.append(token)
        self.blocks.grow(chain, len(chain.tokens))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data):
        chain = data.draw(st.sampled_from(self.live))
        self.live.remove(chain)
        self.blocks.free(chain)

    @rule()
    def clear(self):
        assert self.blocks.clear() == (not self.live)

    @invariant()
    def is_consistent(self):
        self.blocks.check_integrity(self.live)
        self.absorb_events()
        remembered = {block_hash: len(ids) for block_hash, ids in self.blocks._copies.items()}
        assert remembered == {key: count for key, count in self.announced.items() if count}


TestAnyOrderOfOperations = CacheMachine.TestCase
