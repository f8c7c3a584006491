"""What is remembered of blocks that nobody holds any more."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cluster.index import prefix_index
from cluster.index.evicted_blocks import Fate, Ghosts
from cluster.index.prefix_index import PrefixIndex


def _keys(*keys):
    return np.array(keys, dtype=np.uint64)


def test_a_newer_block_takes_the_place_of_an_older_one():
    """Memory is bounded: of two keys with the same place the later one is remembered."""
    ghosts = Ghosts(max_blocks=8)
    ghosts.remember(_keys(3), Fate.EVICTED)
    ghosts.remember(_keys(11), Fate.LOST)
    assert (ghosts.fate(3), ghosts.fate(11), len(ghosts)) == (Fate.NEVER_SEEN, Fate.LOST, 1)


def test_key_zero_is_a_key_like_any_other():
    """An empty place does not look like the key 0."""
    ghosts = Ghosts(max_blocks=8)
    assert ghosts.leading(_keys(0)) == []
    ghosts.remember(_keys(0), Fate.EVICTED)
    assert ghosts.leading(_keys(0)) == [(Fate.EVICTED, 1)]


def test_an_overwritten_block_between_remembered_ones_counts_like_the_next():
    """Keys are chained: what stood in front of a remembered block was there too."""
    ghosts = Ghosts(max_blocks=8)
    ghosts.remember(_keys(1, 3), Fate.LOST)
    assert ghosts.leading(_keys(1, 2, 3, 4)) == [(Fate.LOST, 3)]


@given(
    events=st.lists(
        st.tuples(st.lists(st.integers(0, 63)), st.sampled_from([Fate.EVICTED, Fate.LOST])), max_size=8
    ),
    prompt=st.lists(st.integers(0, 63), unique=True),
)
def test_without_collisions_every_fate_is_the_last_one(events, prompt):
    """Against a dict: the runs say what became of each leading block, and end with the last known one."""
    ghosts, model = Ghosts(max_blocks=64), {}
    for keys, fate in events:
        ghosts.remember(_keys(*keys), fate)
        model.update(dict.fromkeys(keys, fate))
    fates = [fate for fate, count in ghosts.leading(_keys(*prompt)) for _ in range(count)]
    known = [number for number, key in enumerate(prompt) if key in model]
    assert len(fates) == (known[-1] + 1 if known and known[0] == 0 else 0)
    assert all(fates[number] is model[prompt[number]] for number in known if number < len(fates))
    assert len(ghosts) == len(model)


def test_the_index_says_how_blocks_were_lost():
    """Removed and cleared blocks count as evicted, those of a replica that goes or starts anew as lost."""
    index = PrefixIndex(max_blocks=1000)
    first, second = index.add_replica(), index.add_replica()
    index.store(first, [1, 2, 3])
    index.store(second, [4, 5])
    index.remove(first, [3])
    index.remove_replica(first)
    index.clear(second)
    fates = [index.ghosts.fate(key) for key in (1, 2, 3, 4, 5, 6)]
    assert fates == [Fate.LOST, Fate.LOST, Fate.EVICTED, Fate.EVICTED, Fate.EVICTED, Fate.NEVER_SEEN]
    index.restart_replica(second)
    assert index.ghosts.fate(4) is Fate.EVICTED  # it held nothing any more


def test_in_a_large_index_the_table_knows_what_was_lost(monkeypatch):
    """Nobody walks through it when a replica goes. What was evicted before is told apart all the same."""
    monkeypatch.setattr(prefix_index, "WALKED_BLOCKS", 2)
    index = PrefixIndex(max_blocks=1000)
    slot = index.add_replica()
    index.store(slot, [1, 2, 3, 4, 5, 6])
    index.remove(slot, [6])
    index.remove(slot, [1])
    index.remove_replica(slot)
    assert index.fates(_keys(1, 2, 3, 7)) == [(Fate.EVICTED, 1), (Fate.LOST, 2)]
    assert index.fates(_keys(7, 2)) == []
    other = index.add_replica()
    index.store(other, [2])
    assert index.fates(_keys(2, 3)) == []
