"""The prefix index against the simplest thing that could be right: a set of keys per replica."""

from itertools import accumulate

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from cluster.index.block_table import as_keys
from cluster.index.index_sets import OWNED
from cluster.index.prefix_index import PrefixIndex

MAX_BLOCKS = 9


def chained(tokens):
    """Keys as prompts have them: equal keys mean equal tokens, and equal everything before them."""
    return list(accumulate(tokens, lambda key, token: 3 * key + token))


prompts = st.lists(st.integers(1, 2), max_size=5).map(chained)
middles = st.builds(lambda prompt, start: prompt[start:], prompts, st.integers(0, 3))
blocks = st.lists(st.integers(1, 2), min_size=1, max_size=5).map(lambda tokens: chained(tokens)[-1])
keys = st.lists(blocks, max_size=8)


def matched_in(index, prompt):
    """Leading blocks by slot, without those that hold none."""
    depths = index.matched_blocks(prompt).tolist()
    return {slot: depth for slot, depth in enumerate(depths) if depth}


class IndexAgainstSets(RuleBasedStateMachine):
    """Random histories of replicas, batches and expectations."""

    slots = Bundle("slots")
    expectations = Bundle("expectations")

    def __init__(self):
        super().__init__()
        self.index = PrefixIndex(MAX_BLOCKS)
        self.owned = {}
        self.expected = {}
        self.refused = 0

    @rule(target=slots)
    def add_replica(self):
        """A new replica takes the lowest slot that nobody has."""
        slot = self.index.add_replica()
        assert slot == min(set(range(len(self.owned) + 1)) - set(self.owned))
        self.owned[slot], self.expected[slot] = set(), []
        return slot

    @rule(slot=consumes(slots))
    def remove_replica(self, slot):
        """With a replica goes everything it held and was expected to hold."""
        self.index.remove_replica(slot)
        del self.owned[slot], self.expected[slot]

    @rule(slot=slots)
    def restart_replica(self, slot):
        """A new incarnation in the same slot holds nothing, and nothing is expected of it."""
        self.index.restart_replica(slot)
        self.owned[slot], self.expected[slot] = set(), []

    @rule(slot=slots, stored=keys)
    def store(self, slot, stored):
        """Blocks beyond the bound are refused and counted, known ones are taken in at any time."""
        for key in stored:
            known = set().union(*self.owned.values())
            if key in known or len(known) < MAX_BLOCKS:
                self.owned[slot].add(key)
            else:
                self.refused += 1
        self.index.store(slot, stored)

    @rule(slot=slots, removed=keys)
    def remove(self, slot, removed):
        """Removing what is not there changes nothing."""
        self.owned[slot] -= set(removed)
        self.index.remove(slot, removed)

    @rule(slot=slots)
    def clear(self, slot):
        """Clearing leaves expectations as they are."""
        self.owned[slot] = set()
        self.index.clear(slot)

    @rule(target=expectations, slot=slots, expected=middles)
    def expect(self, slot, expected):
        """The same block may be expected several times; where a prompt's beginning is held, only the rest."""
        self.expected[slot].append(expected)
        return slot, expected, self.expected[slot], self.index.expect(slot, expected)

    @rule(expectation=consumes(expectations), times=st.integers(1, 2))
    def forget(self, expectation, times):
        """Once is enough; that of a replica that has left, or come back since, is forgotten already."""
        slot, expected, of_this_generation, given_out = expectation
        if self.expected.get(slot) is of_this_generation:
            of_this_generation.remove(expected)
        for _ in range(times):
            self.index.forget(given_out)

    @rule(prompt=prompts)
    def match(self, prompt):
        """Each replica's match is the number of leading keys that it holds or is expected to hold."""
        matched = {}
        for slot, owned in self.owned.items():
            held = owned.union(*self.expected[slot])
            depth = next((n for n, key in enumerate(prompt) if key not in held), len(prompt))
            if depth:
                matched[slot] = depth
        assert matched_in(self.index, prompt) == matched

    @invariant()
    def agrees(self):
        """Sizes, contents and the index's own conservation law."""
        assert len(self.index) == len(set().union(*self.owned.values())) <= MAX_BLOCKS
        for slot, owned in self.owned.items():
            assert self.index.owned(slot) == owned
            assert self.index.num_owned(slot) == len(owned)
            assert self.index.expected(slot) == set().union(*self.expected[slot])
        assert self.index.refused_blocks == self.refused
        self.index.check_integrity()


TestIndexAgainstSets = IndexAgainstSets.TestCase
TestIndexAgainstSets.__doc__ = "Random histories leave index and model equal."


def test_match_ends_at_the_first_block_nobody_holds():
    """A block that is held after a gap does not count."""
    index = PrefixIndex()
    slot = index.add_replica()
    index.store(slot, [1, 2, 4])
    assert matched_in(index, [1, 2, 3, 4]) == {slot: 2}
    assert matched_in(index, [3, 4]) == {}
    assert matched_in(index, []) == {}


def test_many_replicas_and_depths():
    """Bitsets wider than a machine word: 200 replicas, each holding one block more than the last."""
    index = PrefixIndex()
    for length in range(200):
        index.store(index.add_replica(), range(length))
    assert matched_in(index, range(150)) == {slot: min(slot, 150) for slot in range(1, 200)}


def test_keys_may_be_lists_or_arrays():
    """Whoever has keys as an array saves the conversion, and finds the same."""
    index = PrefixIndex()
    slot = index.add_replica()
    prompt = [0, (1 << 64) - 1, 1 << 63, 7]
    index.store(slot, as_keys(prompt[:2]))
    expectation = index.expect(slot, as_keys(prompt[:3]))
    assert matched_in(index, prompt) == matched_in(index, as_keys(prompt)) == {slot: 3}
    assert index.num_confirmed(slot, as_keys(prompt), 0) == index.num_confirmed(slot, prompt, 1) == 2
    index.forget(expectation)
    index.remove(slot, as_keys(prompt[1:]))
    assert index.owned(slot) == {0}


def test_progress_is_seen_however_many_blocks_turn_up():
    """Leading blocks count up to the first gap, and all of them once the last one is there."""
    index = PrefixIndex()
    slot = index.add_replica()
    prompt = list(range(200))
    index.store(slot, prompt[:150])
    index.store(slot, prompt[151:199])
    assert [index.num_confirmed(slot, prompt, known) for known in (0, 32, 149, 150)] == [150] * 4
    index.store(slot, prompt[199:])
    assert index.num_confirmed(slot, prompt, 0) == 200


def test_expectation_survives_confirmation_and_eviction():
    """An expected block stays while the request runs, whatever events say meanwhile."""
    index = PrefixIndex()
    slot = index.add_replica()
    expectation = index.expect(slot, [1, 2])
    index.store(slot, [1])
    index.clear(slot)
    assert matched_in(index, [1, 2]) == {slot: 2}
    index.forget(expectation)
    assert matched_in(index, [1, 2]) == {}


def test_integrity_check_finds_a_difference():
    """The debug check can fail."""
    index = PrefixIndex()
    slot = index.add_replica()
    index.store(slot, [1])
    index._confirmed._arrays.slots[slot, OWNED] += 1
    with pytest.raises(AssertionError, match="union"):
        index.check_integrity()


def test_integrity_check_finds_a_path_that_nobody_expects():
    """What is on its way is compared as well."""
    index = PrefixIndex()
    index.expect(index.add_replica(), [1, 2])
    index._expected.starts[1].split(1)
    index.check_integrity()
    index._expected.starts[1].add(0)
    with pytest.raises(AssertionError, match="union"):
        index.check_integrity()
