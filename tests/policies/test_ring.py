"""The ring: few keys move when replicas come and go, and no replica takes more than its share."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from uhashring import HashRing

from policies import ring
from policies.ring import MAX_RINGS, first_on_ring, first_with_room, hash_of, walk

keys = st.integers(0, 2**64 - 1)
names = st.lists(
    st.text(alphabet="abcdefghij-0123456789", min_size=1, max_size=12), min_size=2, max_size=12, unique=True
).map(lambda ids: tuple(sorted(ids)))
rows_with_load = st.lists(st.tuples(st.booleans(), st.integers(0, 20_000)), min_size=1, max_size=12).filter(
    lambda rows: any(eligible for eligible, _ in rows)
)


def owner(replicas, key):
    """The replica that a key belongs to."""
    return replicas[next(walk(replicas, key))]


@given(names, keys)
def test_walk_visits_every_replica_once(replicas, key):
    """A walk from any key meets all replicas, each of them once."""
    assert sorted(walk(replicas, key)) == list(range(len(replicas)))


@given(names, st.lists(keys, min_size=1, max_size=60), st.data())
def test_leaving_replica_moves_only_its_own_keys(replicas, some_keys, data):
    """When a replica leaves, keys of the others stay; when it joins, keys move to it only."""
    leaving = data.draw(st.sampled_from(replicas))
    rest = tuple(replica for replica in replicas if replica != leaving)
    for key in some_keys:
        before, after = owner(replicas, key), owner(rest, key)
        assert before in (after, leaving)


@given(names, keys, st.data())
def test_leaving_replica_does_not_change_the_order_of_the_others(replicas, key, data):
    """The walk without a replica is the walk with it, that replica left out."""
    leaving = data.draw(st.sampled_from(replicas))
    rest = tuple(replica for replica in replicas if replica != leaving)
    with_it = [replicas[row] for row in walk(replicas, key) if replicas[row] != leaving]
    assert with_it == [rest[row] for row in walk(rest, key)]


@given(rows_with_load, keys, st.integers(1, 20_000), st.sampled_from([1.0, 1.25, 2.0]))
def test_bound_is_never_exceeded(rows, key, added, bound):
    """The chosen replica stays within bound x mean load, or nobody could take the request at less load."""
    candidates = np.array([eligible for eligible, _ in rows])
    load = np.array([float(tokens) for _, tokens in rows])
    replicas = tuple(f"r{row}" for row in range(len(rows)))
    chosen = first_with_room(replicas, key, candidates, load, added, bound)
    mean = (load[candidates].sum() + added) / candidates.sum()
    assert candidates[chosen]
    assert load[chosen] + added <= max(bound * mean, load[candidates].min() + added)


@given(rows_with_load, keys, st.integers(1, 20_000))
def test_replicas_passed_on_the_walk_were_full(rows, key, added):
    """Every candidate before the chosen one on the ring would have gone over the bound."""
    candidates = np.array([eligible for eligible, _ in rows])
    load = np.array([float(tokens) for _, tokens in rows])
    replicas = tuple(f"r{row}" for row in range(len(rows)))
    chosen = first_with_room(replicas, key, candidates, load, added, 1.25)
    mean = (load[candidates].sum() + added) / candidates.sum()
    for row in walk(replicas, key):
        if row == chosen:
            break
        assert not candidates[row] or load[row] + added > 1.25 * mean


def test_large_prompt_on_a_busy_fleet_goes_where_load_is_least():
    """A prompt larger than anybody's room is placed by load, not blindly on its place on the ring."""
    replicas = tuple(f"r{row}" for row in range(4))
    load = np.array([6400.0, 64.0, 640.0, 640.0])
    everybody = np.ones(4, dtype=np.bool_)
    chosen = {first_with_room(replicas, key, everybody, load, 15_000.0) for key in range(50)}
    assert chosen == {1}


@given(st.lists(names, min_size=1, max_size=4), keys)
def test_order_is_that_of_uhashring(fleets, key):
    """Whatever replicas there were before, a ring's order is that of uhashring's own walk."""
    for replicas in fleets:
        expected = HashRing(list(replicas), hash_fn=hash_of).iterate_nodes(f"{key:016x}")
        assert [replicas[row] for row in walk(replicas, key)] == list(expected)


@given(st.integers(1, 400), st.data())
def test_first_candidate_is_the_first_of_the_walk(size, data):
    """However far away it is, and also over the end of the ring."""
    replicas = tuple(f"replica-{number:03}" for number in range(size))
    rows = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=4))
    candidates = np.isin(np.arange(size), list(rows))
    for key in data.draw(st.lists(keys, min_size=1, max_size=10)):
        first = next(row for row in walk(replicas, key) if row in rows)
        assert first_on_ring(replicas, key, candidates) == first


def test_rings_that_were_not_asked_for_lately_are_forgotten():
    """There is a bound, and a forgotten ring comes back as it was."""
    fleets = [tuple(f"replica-{number}" for number in range(size)) for size in range(2, MAX_RINGS + 5)]
    walks = [list(walk(replicas, 7)) for replicas in fleets]
    assert len(ring._rings) == MAX_RINGS
    assert [list(walk(replicas, 7)) for replicas in fleets] == walks


def test_hash_is_that_of_uhashring():
    """Its first 64 bits: a ring keeps its order when a router of an older version runs beside it."""
    assert hash_of("replica-1-7") == HashRing(["a"]).get_key("replica-1-7") >> 64


def test_first_on_ring_skips_those_that_are_no_candidates():
    """Only candidates are chosen, in the order of the walk."""
    replicas = ("a", "b", "c", "d")
    order = list(walk(replicas, 99))
    for count in range(1, 5):
        candidates = np.zeros(4, dtype=np.bool_)
        candidates[order[-count:]] = True
        assert first_on_ring(replicas, 99, candidates) == order[-count]


def test_keys_spread_evenly():
    """10,000 keys on 8 replicas: nobody has less than half or more than double its share."""
    replicas = tuple(f"10.0.0.{row}:8000" for row in range(8))
    shares = Counter(next(walk(replicas, key * 0x9E3779B97F4A7C15 % 2**64)) for key in range(10_000))
    assert set(shares) == set(range(8))
    assert 625 < min(shares.values()) <= max(shares.values()) < 2500
