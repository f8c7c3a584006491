"""The mirror against a plain model of an engine, and case by case."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.protocol.block_keys import Namespace, block_keys
from workers.agent.mirror import Change, Mirror
from workers.errors import MirrorOverflowError
from workers.events.kv_events import AllBlocksCleared, BlockRemoved, BlockStored

SIZE = 4


def _namespace(lora: str = "", salt: str = "") -> Namespace:
    return Namespace("fingerprint", SIZE, lora, salt)


def _mirror(max_blocks: int = 1000, max_parked: int = 100) -> Mirror:
    return Mirror(lambda lora, salt: _namespace(lora, salt).root(), SIZE, max_blocks, max_parked)


def _keys(tokens: list[int], lora: str = "", salt: str = "") -> list[int]:
    return block_keys(_namespace(lora, salt).root(), tokens, SIZE)


def _stored(
    hashes: list[int | bytes], parent: int | bytes | None, tokens: list[int], **fields
) -> BlockStored:
    defaults = {"block_size": SIZE, "medium": "GPU", "group_idx": 0, "kv_cache_spec_kind": "full_attention"}
    return BlockStored(block_hashes=hashes, parent_block_hash=parent, token_ids=tokens, **(defaults | fields))


def _removed(*hashes: int | bytes, **fields) -> BlockRemoved:
    return BlockRemoved(block_hashes=list(hashes), **({"medium": "GPU", "group_idx": 0} | fields))


TOKENS = list(range(100, 112))
KEYS = _keys(TOKENS)


def test_keys_are_those_of_a_router():
    """A chain in one event and the same chain in three give the keys that routers compute."""
    whole, parts = _mirror(), _mirror()
    change = whole.apply([_stored([1, 2, 3], None, TOKENS)])
    parts.apply([_stored([1], None, TOKENS[:4]), _stored([2], 1, TOKENS[4:8])])
    parts.apply([_stored([3], 2, TOKENS[8:])])
    assert change == Change(stored=frozenset(KEYS))
    assert whole.owned() == parts.owned() == frozenset(KEYS)


def test_only_the_last_copy_is_a_removal():
    """A block announced twice and removed once is still held."""
    mirror = _mirror()
    mirror.apply([_stored([1], None, TOKENS[:4])])
    assert not mirror.apply([_stored([1], None, TOKENS[:4])])
    assert not mirror.apply([_removed(1)])
    assert mirror.apply([_removed(1)]) == Change(removed=frozenset(KEYS[:1]))
    mirror.check_integrity()


def test_two_hashes_with_one_key_are_one_block():
    """The same tokens under two engine hashes (groups, for example) are owned until both are gone."""
    mirror = _mirror()
    mirror.apply([_stored([1], None, TOKENS[:4]), _stored([2], None, TOKENS[:4], group_idx=1)])
    assert len(mirror) == 1
    assert not mirror.apply([_removed(1)])
    assert mirror.apply([_removed(2, group_idx=1)]).removed == frozenset(KEYS[:1])


def test_changes_are_net():
    """What comes and goes in one batch does not show; neither does what goes and comes back."""
    mirror = _mirror()
    assert not mirror.apply([_stored([1], None, TOKENS[:4]), _removed(1)])
    mirror.apply([_stored([1], None, TOKENS[:4])])
    assert not mirror.apply([_removed(1), _stored([1], None, TOKENS[:4])])


def test_clearing_forgets_everything_before_it():
    """After a clear only what was stored behind it is a change."""
    mirror = _mirror()
    mirror.apply([_stored([1, 2], None, TOKENS[:8])])
    change = mirror.apply([_removed(2), AllBlocksCleared(), _stored([9], None, TOKENS[4:8])])
    assert change == Change(stored=frozenset(_keys(TOKENS[4:8])), cleared=True)
    assert mirror.counts.removed == 2
    mirror.check_integrity()


def test_clearing_one_source_leaves_the_others():
    """Each data-parallel rank clears its own blocks."""
    mirror = _mirror()
    mirror.apply([_stored([1, 2], None, TOKENS[:8])], source=0)
    mirror.apply([_stored([1], None, TOKENS[:4])], source=1)
    change = mirror.apply([AllBlocksCleared()], source=0)
    assert change == Change(removed=frozenset(KEYS[1:2]))
    assert mirror.owned() == frozenset(KEYS[:1])
    mirror.check_integrity()


def test_children_wait_for_their_parent():
    """Blocks whose parent is not known are kept aside, counted, and owned as soon as it is."""
    mirror = _mirror()
    assert not mirror.apply([_stored([2, 3], 1, TOKENS[4:])])
    assert mirror.num_parked == 2
    assert mirror.apply([_stored([1], None, TOKENS[:4])]).stored == frozenset(KEYS)
    assert mirror.num_parked == 0
    mirror.check_integrity()


def test_waiting_blocks_can_be_removed():
    """A removal of a waiting copy is counted like any other."""
    mirror = _mirror()
    mirror.apply([_stored([2], 1, TOKENS[4:8]), _stored([2], 1, TOKENS[4:8]), _removed(2)])
    assert mirror.num_parked == 1
    mirror.apply([_removed(2)])
    assert mirror.num_parked == 0
    mirror.apply([_stored([1], None, TOKENS[:4])])
    assert mirror.owned() == frozenset(KEYS[:1])


def test_waiting_blocks_are_bounded():
    """Beyond the bound the oldest are given up and counted; that never claims a block."""
    mirror = _mirror(max_parked=2)
    mirror.apply([_stored([h], h + 100, TOKENS[:4]) for h in range(5)])
    assert (mirror.num_parked, mirror.counts.given_up) == (2, 3)
    assert len(mirror) == 0
    mirror.check_integrity()


def test_more_blocks_than_there_is_room_for():
    """Copies beyond the engine's capacity mean that its events are not true."""
    mirror = _mirror(max_blocks=3)
    mirror.apply([_stored([1, 2, 3], None, TOKENS)])
    with pytest.raises(MirrorOverflowError, match="more than 3 blocks"):
        mirror.apply([_stored([1], None, TOKENS[:4])])


def test_salt_and_lora_make_namespaces():
    """Cache salt and LoRA name of block 0 select the namespace of the whole chain."""
    mirror = _mirror()
    extra = [["adapter", "salt"], ["adapter"], ["adapter"]]
    mirror.apply([_stored([1, 2, 3], None, TOKENS, lora_name="adapter", extra_keys=extra)])
    assert mirror.owned() == frozenset(_keys(TOKENS, "adapter", "salt"))


def test_a_salt_that_looks_like_the_adapter():
    """The LoRA name comes first, so an equal salt is still a salt."""
    mirror = _mirror()
    mirror.apply([_stored([1], None, TOKENS[:4], lora_name="x", extra_keys=[["x", "x"]])])
    assert mirror.owned() == frozenset(_keys(TOKENS[:4], "x", "x"))


@pytest.mark.parametrize("foreign", [["image-1", 0], b"digest", ["image-1", 3]])
def test_images_and_embeddings_are_not_text(foreign):
    """Blocks with other content than their tokens, and all after them, equal no text."""
    mirror, again, text = _mirror(), _mirror(), frozenset(KEYS)
    event = _stored([1, 2, 3], None, TOKENS, extra_keys=[None, [foreign], None])
    mirror.apply([event])
    again.apply([event])
    assert mirror.owned() == again.owned()
    assert mirror.owned() & text == frozenset(KEYS[:1])
    assert len(mirror) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"medium": "CPU"},
        {"medium": "STORAGE"},
        {"kv_cache_spec_kind": "sliding_window"},
        {"kv_cache_spec_kind": "mamba"},
        {"locality": "REMOTE"},
        {"ownership": "tier-2"},
    ],
)
def test_other_tiers_and_partial_groups_are_ignored(fields):
    """Only device blocks of groups that hold whole prefixes can be a prefix hit."""
    mirror = _mirror()
    assert not mirror.apply([_stored([1, 2, 3], None, TOKENS, **fields)])
    assert (len(mirror), mirror.num_parked) == (0, 0)


@pytest.mark.parametrize(
    "fields", [{"medium": None}, {"kv_cache_spec_kind": None}, {"kv_cache_spec_kind": "mla_attention"}]
)
def test_what_an_engine_does_not_say_is_no_reason_to_ignore(fields):
    """Older engines name neither medium nor kind; MLA models have nothing but MLA groups."""
    mirror = _mirror()
    assert mirror.apply([_stored([1, 2, 3], None, TOKENS, **fields)]).stored == frozenset(KEYS)


def test_contradictory_events_are_counted():
    """Too few tokens, or blocks of another size, are not guessed at."""
    mirror = _mirror()
    mirror.apply([_stored([1, 2], None, TOKENS), _stored([1], None, TOKENS[:8], block_size=8), _removed(77)])
    counts = mirror.counts
    assert (counts.malformed, counts.other_size) == (2, 1)
    assert mirror.seen_block_size == 8
    assert len(mirror) == 0


CHAINS = [[chain * 10 + depth for depth in range(4)] for chain in range(3)]
"""Engine hashes of three prompts of four blocks."""


class EngineMachine(RuleBasedStateMachine):
    """An engine that stores chains in any pieces, in any copies, and evicts in any order."""

    @initialize()
    def begin(self):
        self.mirror = _mirror(max_blocks=10_000)
        self.copies: Counter[int] = Counter()
        self.redis: set[int] = set()

    def _apply(self, events):
        change = self.mirror.apply(events)
        before = set() if change.cleared else self.redis
        assert change.removed <= before, "removed something that was not published"
        assert not change.stored & before, "stored something that was published"
        self.redis = (before - change.removed) | change.stored

    def _events(self, chain, start, stop):
        hashes = CHAINS[chain][start:stop]
        for block_hash in hashes:
            self.copies[block_hash] += 1
        parent = CHAINS[chain][start - 1] if start else None
        tokens = [token for depth in range(start, stop) for token in _tokens(chain, depth)]
        return _stored(hashes, parent, tokens)

    @rule(chain=st.integers(0, 2), start=st.integers(0, 3), length=st.integers(1, 4))
    def store(self, chain, start, length):
        self._apply([self._events(chain, start, min(start + length, 4))])

    @rule(data=st.data(), count=st.integers(1, 4))
    def evict(self, data, count):
        events = []
        for _ in range(count):
            held = sorted(block for block, copies in self.copies.items() if copies)
            if held:
                block = data.draw(st.sampled_from(held))
                self.copies[block] -= 1
                events.append(_removed(block))
        self._apply(events)

    @rule(chain=st.integers(0, 2), data=st.data())
    def store_and_evict_at_once(self, chain, data):
        stored = self._events(chain, 0, 4)
        held = sorted(block for block, copies in self.copies.items() if copies)
        block = data.draw(st.sampled_from(held))
        self.copies[block] -= 1
        self._apply([stored, _removed(block)])

    @rule()
    def clear(self):
        self.copies.clear()
        self._apply([AllBlocksCleared()])

    @invariant()
    def agrees(self):
        if not hasattr(self, "mirror"):
            return
        self.mirror.check_integrity()
        held = {block for block, copies in self.copies.items() if copies}
        keys = {_key_of(block): block for block in held}
        owned = self.mirror.owned()
        assert owned == self.redis, "the changes add up to what is owned"
        assert owned <= keys.keys(), "nothing is claimed that the engine does not hold"
        assert len(held) == len(owned) + self.mirror.num_parked, "nothing is dropped silently"


def _tokens(chain: int, depth: int) -> list[int]:
    return [chain * 1000 + depth * 10 + position for position in range(SIZE)]


def _key_of(block: int) -> int:
    chain, depth = divmod(block, 10)
    return _keys([token for index in range(depth + 1) for token in _tokens(chain, index)])[-1]


TestEngineMachine = EngineMachine.TestCase


@given(st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=40))
def test_any_tokens_give_the_routers_keys(tokens):
    """For every prompt, agent and router compute the same keys."""
    full = len(tokens) // SIZE
    mirror = _mirror()
    mirror.apply([_stored(list(range(full)), None, tokens[: full * SIZE])])
    assert mirror.owned() == frozenset(_keys(tokens))
