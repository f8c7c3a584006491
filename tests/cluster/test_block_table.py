"""The block table against the simplest thing that could be right: a dict from keys to sets of slots."""

import hashlib
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.index import index_kernels, index_sets
from cluster.index.block_table import BlockTable, as_keys

KEYS = [0, 1, (1 << 64) - 1] + [zlib.crc32(bytes([number])) << 32 | number for number in range(120)]

steps = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "store", "remove", "remove", "clear"]),
        st.integers(0, 11),
        st.lists(st.sampled_from(KEYS), max_size=40),
    ),
    max_size=40,
)


def matched(table, prompt, num_slots):
    """Leading blocks of each slot, with nothing expected."""
    found = np.zeros(num_slots, dtype=np.int64)
    table.match(as_keys(prompt), np.empty((0, 2 + table.num_words), dtype=np.uint64), found)
    return found.tolist()


def table_of(num_slots, max_keys=1_000):
    """An empty table."""
    table = BlockTable(max_keys)
    for slot in range(num_slots):
        table.make_room_for(slot)
    return table


def many_keys(count, seed=1):
    """Keys as hashing makes them."""
    return np.random.default_rng(seed).integers(0, 1 << 64, count, dtype=np.uint64)


@given(steps, st.sampled_from([(0, 1), (50, 1), (0, 97)]), st.sampled_from([7, 60, 1_000]))
def test_any_history_leaves_what_a_dict_of_sets_has(history, numbering, max_keys):
    """Few and many holders, slots beyond 64 and beyond 1,024, and tables that are full."""
    first, distance = numbering
    table = table_of(first + 11 * distance + 1, max_keys)
    model, refused = {}, 0
    for step, number, keys in history:
        slot = first + number * distance
        if step == "store":
            for key in keys:
                if key in model or len(model) < max_keys:
                    model.setdefault(key, set()).add(slot)
                else:
                    refused += 1
            table.store(slot, as_keys(keys), max_keys)
        else:
            for key in keys if step == "remove" else list(model):
                model.get(key, set()).discard(slot)
                if not model.get(key, {slot}):
                    del model[key]
            if step == "remove":
                table.remove(slot, as_keys(keys))
            else:
                table.clear(slot)
        assert (len(table), table.refused) == (len(model), refused)
    assert table.is_consistent()
    prompt = sorted(model, key=lambda key: (-len(model[key]), key))
    depths = matched(table, prompt, first + 11 * distance + 1)
    for slot in range(first, first + 11 * distance + 1, distance):
        assert frozenset(table.owned(slot).tolist()) == {key for key, slots in model.items() if slot in slots}
        depth = next((n for n, key in enumerate(prompt) if slot not in model[key]), len(prompt))
        assert depths[slot] == table.count_held(slot, as_keys(prompt)) == depth


def test_segments_grow_and_shrink_one_by_one():
    """All keys are found while a table of several segments fills up, and after most have gone."""
    keys = many_keys(200_000)
    table = table_of(2, max_keys=400_000)
    for batch in np.split(keys, 100):
        table.store(0, batch, 400_000)
        assert table.count_held(0, batch) == len(batch)
    assert len(table) == table.num_owned(0) == table.count_held(0, keys) == len(keys)
    table.remove(0, keys[1_000:])
    assert frozenset(table.owned(0).tolist()) == frozenset(keys[:1_000].tolist())
    table.store(1, many_keys(100_000, seed=2), 400_000)
    assert table.count_held(0, keys) == 1_000


def test_cleared_blocks_make_room():
    """What a replica held is neither seen nor in the way: a table fills again and again."""
    table = table_of(3, max_keys=5_000)
    shared = many_keys(1_000)
    table.store(2, shared, 5_000)
    for seed in range(2, 12):
        table.store(0, shared, 5_000)
        table.store(0, many_keys(4_000, seed), 5_000)
        assert len(table) == 5_000
        table.clear(0)
        assert (len(table), table.num_owned(0), table.refused) == (1_000, 0, 0)
        assert table.next_held(many_keys(4_000, seed), 0) == 4_000
    assert matched(table, shared, 3) == [0, 0, 1_000]


def test_span_counts_as_holder_between_its_places():
    """A slot holds what is confirmed for it and what is expected of it, together."""
    table = table_of(70)
    prompt = list(range(10))
    table.store(69, as_keys(prompt[:3]), 1_000)
    table.store(69, as_keys(prompt[6:8]), 1_000)
    spans = np.array([[3, 6, 0, 1 << 5], [0, 2, 1, 0]], dtype=np.uint64)
    found = np.zeros(70, dtype=np.int64)
    table.match(as_keys(prompt), spans, found)
    assert {slot: depth for slot, depth in enumerate(found.tolist()) if depth} == {0: 2, 69: 8}


def test_slots_have_a_bound():
    """Sets name slots with 16 bits."""
    with pytest.raises(ValueError, match="65536"):
        BlockTable(10).make_room_for(1 << 16)


def test_memory_is_taken_as_the_table_fills():
    """Room for 64 million blocks costs nothing until there are blocks."""
    before = resident_bytes()
    table = table_of(1, max_keys=64_000_000)
    table.store(0, many_keys(1_000), 64_000_000)
    assert resident_bytes() - before < 16 << 20


def resident_bytes():
    """Memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_kernels_are_compiled_anew_when_their_helpers_change():
    """Numba's cache only looks at the kernels' own file: it says which version of the other it goes with."""
    digest = hashlib.sha256(Path(index_sets.__file__).read_bytes()).hexdigest()[:16]
    assert digest == index_kernels.INDEX_SETS, f"set INDEX_SETS in index_kernels.py to {digest!r}"


@pytest.mark.integration
def test_index_works_where_compiled_code_cannot_be_kept():
    """Without a folder to write to, kernels are compiled at every start."""
    program = (
        "from cluster.index.prefix_index import *; "
        "i = PrefixIndex(); i.store(i.add_replica(), [1]); print(len(i))"
    )
    environment = dict(
        os.environ, NUMBA_CACHE_LOCATOR_CLASSES="", NUMBA_CACHE_DIR="/proc/nowhere", HOME="/proc/nowhere"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
