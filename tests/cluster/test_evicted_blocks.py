"""What is remembered of blocks that nobody holds any more."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.index import evicted_blocks, prefix_index
from cluster.index.evicted_blocks import EvictedBlocks, Outcome
from cluster.index.prefix_index import PrefixIndex


def _keys(*keys):
    return np.array(keys, dtype=np.uint64)


def test_a_newer_block_takes_the_place_of_an_older_one():
    """Memory is bounded: of two keys with the same place the later one is remembered."""
    evicted = EvictedBlocks(max_blocks=8)
    evicted.remember(_keys(3), Outcome.EVICTED)
    evicted.remember(_keys(11), Outcome.LOST)
    assert (evicted.outcome(3), evicted.outcome(11), len(evicted)) == (Outcome.NEVER_SEEN, Outcome.LOST, 1)


def test_key_zero_is_a_key_like_any_other():
    """An empty place does not look like the key 0."""
    evicted = EvictedBlocks(max_blocks=8)
    assert evicted.leading(_keys(0)) == []
    evicted.remember(_keys(0), Outcome.EVICTED)
    assert evicted.leading(_keys(0)) == [(Outcome.EVICTED, 1)]


def test_an_overwritten_block_between_remembered_ones_counts_like_the_next():
    """Keys are chained: what stood in front of a remembered block was there too."""
    evicted = EvictedBlocks(max_blocks=8)
    evicted.remember(_keys(1, 3), Outcome.LOST)
    assert evicted.leading(_keys(1, 2, 3, 4)) == [(Outcome.LOST, 3)]


@given(
    events=st.lists(
        st.tuples(st.lists(st.integers(0, 63)), st.sampled_from([Outcome.EVICTED, Outcome.LOST])), max_size=8
    ),
    prompt=st.lists(st.integers(0, 63), unique=True),
)
def test_without_collisions_every_outcome_is_the_last_one(events, prompt):
    """Against a dict: the runs say what became of each leading block, and end with the last known one."""
    evicted, model = EvictedBlocks(max_blocks=64), {}
    for keys, outcome in events:
        evicted.remember(_keys(*keys), outcome)
        model.update(dict.fromkeys(keys, outcome))
    outcomes = [outcome for outcome, count in evicted.leading(_keys(*prompt)) for _ in range(count)]
    known = [number for number, key in enumerate(prompt) if key in model]
    assert len(outcomes) == (known[-1] + 1 if known and known[0] == 0 else 0)
    assert all(outcomes[number] is model[prompt[number]] for number in known if number < len(outcomes))
    assert len(evicted) == len(model)


@pytest.mark.parametrize(
    ("outcome", "seconds", "counts"),
    [
        (Outcome.EVICTED, 0, True),
        (Outcome.EVICTED, 50, True),
        (Outcome.EVICTED, 70, False),
        (Outcome.LOST, 0, False),
        (Outcome.NEVER_SEEN, 0, False),
    ],
)
def test_blocks_evicted_and_wanted_again_within_a_minute_are_counted(monkeypatch, outcome, seconds, counts):
    """Whatever the clock shows: its ticks repeat after some hours. Other blocks do not count."""
    for now in (0.0, 65_500.0, 10**6):
        monkeypatch.setattr(evicted_blocks.time, "monotonic", lambda now=now: now)
        evicted = EvictedBlocks(max_blocks=8)
        evicted.remember(_keys(1, 2), outcome)
        monkeypatch.setattr(evicted_blocks.time, "monotonic", lambda now=now: now + seconds)
        evicted.want(_keys(1, 2, 3, 9))
        assert evicted.num_wanted_again == (2 if counts else 0)


def test_the_index_says_how_blocks_were_lost():
    """Removed and cleared blocks count as evicted, those of a replica that goes or starts anew as lost."""
    index = PrefixIndex(max_blocks=1000)
    first, second = index.add_replica(), index.add_replica()
    index.store(first, [1, 2, 3])
    index.store(second, [4, 5])
    index.remove(first, [3])
    index.remove_replica(first)
    index.clear(second)
    outcomes = [index.evicted.outcome(key) for key in (1, 2, 3, 4, 5, 6)]
    assert outcomes == [
        Outcome.LOST,
        Outcome.LOST,
        Outcome.EVICTED,
        Outcome.EVICTED,
        Outcome.EVICTED,
        Outcome.NEVER_SEEN,
    ]
    index.restart_replica(second)
    assert index.evicted.outcome(4) is Outcome.EVICTED  # it held nothing any more


def test_in_a_large_index_the_table_knows_what_was_lost(monkeypatch):
    """Nobody walks through it when a replica goes. What was evicted before is told apart all the same."""
    monkeypatch.setattr(prefix_index, "WALKED_BLOCKS", 2)
    index = PrefixIndex(max_blocks=1000)
    slot = index.add_replica()
    index.store(slot, [1, 2, 3, 4, 5, 6])
    index.remove(slot, [6])
    index.remove(slot, [1])
    index.remove_replica(slot)
    assert index.outcomes(_keys(1, 2, 3, 7)) == [(Outcome.EVICTED, 1), (Outcome.LOST, 2)]
    assert index.outcomes(_keys(7, 2)) == []
    other = index.add_replica()
    index.store(other, [2])
    assert index.outcomes(_keys(2, 3)) == []
