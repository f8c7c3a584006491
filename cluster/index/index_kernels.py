"""The compiled part of `cluster.index.block_table`: a hash table from block keys to sets of holders.

An entry is 12 bytes: a key's two halves, and the number of its set (0: no entry). Entries lie in segments, by
their keys' hashes; a segment is a table of its own with linear probing, laid out anew when it is full, so
that no insertion waits for the whole table.

A set that loses its last holder while it has entries is dead. Lookups do not see dead entries; their segments
drop them when laid out anew. So a replica's blocks are forgotten without going through the table.
"""

from typing import Any

import numpy as np

# isort: off
from cluster.index.index_sets import (
    ALONE, ARRAYS, CAPACITY, FEW, FRESH, FULL, HIGH, KEYS, LOW, MAX_CAPACITY, MIN_CAPACITY, NEXT_SET,
    NUM_KEYS, ONE, OWNED, READ, REFERENCES, REFUSED, SET, SIZE, SMALL_SEGMENT, SPANS, SPREAD, START,
    USED, WORD, Arrays, Number, Table, has_room, holds, release, row_of, take_out, with_slot, without_slot,
)  # fmt: skip
from policies.compiled import helper, kernel
# isort: on

INDEX_SETS = "d9064586f7390d11"
"""Digest of the other file. Numba keeps compiled kernels until this file changes, so it must."""
AHEAD = 32


@helper
def hash_of(low: Any, high: Any) -> Any:
    """Finalizer of splitmix64: the table does not rely on keys being hashes."""
    value = np.uint64(low) | (np.uint64(high) << np.uint64(32))
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@helper
def home_of(hashed: Any, capacity: Any) -> Any:
    """Where in its segment a key would stand if nothing else were there."""
    return Number(((hashed & np.uint64(0xFFFFFFFF)) * np.uint64(capacity)) >> np.uint64(32))


@helper
def segment_of(hashed: Any, num_segments: Any) -> Any:
    """The segment of a key."""
    return Number(((hashed >> np.uint64(32)) * np.uint64(num_segments)) >> np.uint64(32))


@helper
def find(entries: Table, segments: Table, key: Any) -> Any:
    """The entry of a key; of an unknown key, -1 less the entry that it could have."""
    low, high = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    hashed = hash_of(low, high)
    segment = segment_of(hashed, len(segments))
    start, capacity = segments[segment, START], segments[segment, CAPACITY]
    place = home_of(hashed, capacity)
    while entries[start + place, SET]:
        if entries[start + place, LOW] == low and entries[start + place, HIGH] == high:
            return start + place
        place += 1
        if place == capacity:
            place = 0
    return -1 - (start + place)


@helper
def touch(entries: Table, segments: Table, keys: Table, start: Any, touched: Table) -> None:
    """Read where the next keys would stand, so that memory answers for all of them at the same time."""
    for place in range(start, min(start + len(touched), len(keys))):
        hashed = hash_of(keys[place] & np.uint64(0xFFFFFFFF), keys[place] >> np.uint64(32))
        segment = segment_of(hashed, len(segments))
        home = segments[segment, START] + home_of(hashed, segments[segment, CAPACITY])
        touched[place - start] = entries[home, SET]


@helper
def lay_out(index: Arrays, segment: Any) -> None:
    """Give a segment room for as many entries again, without the dead ones."""
    entries, start = index.entries, index.segments[segment, START]
    capacity = index.segments[segment, CAPACITY]
    kept = np.empty((index.segments[segment, USED], 3), dtype=np.uint32)
    count = 0
    for at in range(start, start + capacity):
        held_by = entries[at, SET]
        if held_by and index.sets[held_by, SIZE]:
            kept[count] = entries[at]
            count += 1
        elif held_by:
            release(index, held_by)
    share = 0.5
    if count >= SMALL_SEGMENT:
        share = FRESH + SPREAD * np.float64(hash_of(count, segment) >> np.uint64(40)) / (1 << 24)
    capacity = min(max(Number(count / share), MIN_CAPACITY), index.counters[MAX_CAPACITY])
    index.segments[segment, CAPACITY], index.segments[segment, USED] = capacity, count
    entries[start : start + capacity] = 0
    for number in range(count):
        place = home_of(hash_of(kept[number, LOW], kept[number, HIGH]), capacity)
        while entries[start + place, SET]:
            place += 1
            if place == capacity:
                place = 0
        entries[start + place] = kept[number]


@helper
def insert(index: Arrays, key: Any, at: Any) -> Any:
    """An entry for an unknown key, whose set is still to be filled in. Negative when its segment is full and
    cannot grow, which hashing makes next to impossible before the whole table is.
    """
    low, high = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    segment = segment_of(hash_of(low, high), len(index.segments))
    if index.segments[segment, USED] + 1 > FULL * index.segments[segment, CAPACITY]:
        lay_out(index, segment)
        if index.segments[segment, USED] + 1 >= index.segments[segment, CAPACITY]:
            return -1
        at = -1 - find(index.entries, index.segments, key)
    index.segments[segment, USED] += 1
    index.entries[at, LOW], index.entries[at, HIGH] = low, high
    return at


@helper
def delete(index: Arrays, at: Any) -> None:
    """Take an entry out, and move those behind it up, so that no probe stops before them."""
    entries = index.entries
    segment = segment_of(hash_of(entries[at, LOW], entries[at, HIGH]), len(index.segments))
    start, capacity = index.segments[segment, START], index.segments[segment, CAPACITY]
    hole = place = at - start
    while True:
        place += 1
        if place == capacity:
            place = 0
        if not entries[start + place, SET]:
            break
        home = home_of(hash_of(entries[start + place, LOW], entries[start + place, HIGH]), capacity)
        if (place - home) % capacity >= (place - hole) % capacity:
            entries[start + hole] = entries[start + place]
            hole = place
    entries[start + hole, SET] = 0
    index.segments[segment, USED] -= 1


@kernel(f"int64(int64, {KEYS}, int64, int64, {ARRAYS})")
def store(
    slot: int, keys: Table, done: int, max_keys: int, entries: Table, segments: Table, sets: Table,
    members: Table, rows: Table, recent: Table, slots: Table, counters: Table,
) -> int:  # fmt: skip
    """Add a holder to blocks from ``done`` on. Returns how many are done: fewer if sets run out."""
    index = Arrays(entries, segments, sets, members, rows, recent, slots, counters)
    last, following = Number(-1), Number(0)
    touched = np.empty(AHEAD, np.uint32)
    for place in range(done, len(keys)):
        if not has_room(index):
            return place
        if (place - done) % AHEAD == 0:
            touch(entries, segments, keys, place, touched)
        at = find(entries, segments, keys[place])
        held_by = Number(entries[at, SET]) if at >= 0 else Number(0)
        if held_by == last and following == held_by:
            continue
        new = not sets[held_by, SIZE]
        if new and counters[NUM_KEYS] >= max_keys:
            counters[REFUSED] += 1
            continue
        if at < 0:
            at = insert(index, keys[place], -1 - at)
            if at < 0:
                counters[REFUSED] += 1
                last = -1
                continue
            last = last if last == 0 else -1
        if held_by != last:
            last, following = held_by, with_slot(index, held_by, slot)
        if following == held_by:
            continue
        entries[at, SET] = following
        sets[following, REFERENCES] += np.uint32(1)
        slots[slot, OWNED] += 1
        counters[NUM_KEYS] += new
        if held_by and release(index, held_by):
            last = -1
    return len(keys)


@kernel(f"int64(int64, {KEYS}, int64, {ARRAYS})")
def remove(
    slot: int, keys: Table, done: int, entries: Table, segments: Table, sets: Table, members: Table,
    rows: Table, recent: Table, slots: Table, counters: Table,
) -> int:  # fmt: skip
    """Take a holder off blocks from ``done`` on. Returns how many are done, as `store` does."""
    index = Arrays(entries, segments, sets, members, rows, recent, slots, counters)
    last, following = Number(-1), Number(0)
    touched = np.empty(AHEAD, np.uint32)
    for place in range(done, len(keys)):
        if not has_room(index):
            return place
        if (place - done) % AHEAD == 0:
            touch(entries, segments, keys, place, touched)
        at = find(entries, segments, keys[place])
        if at < 0:
            continue
        held_by = Number(entries[at, SET])
        if held_by != last:
            last, following = held_by, without_slot(index, held_by, slot)
        if following == held_by:
            continue
        slots[slot, OWNED] -= 1
        if following:
            entries[at, SET] = following
            sets[following, REFERENCES] += np.uint32(1)
        else:
            delete(index, at)
            counters[NUM_KEYS] -= 1
        if release(index, held_by):
            last = -1
    return len(keys)


@kernel(f"void(int64, {ARRAYS})")
def clear(
    slot: int, entries: Table, segments: Table, sets: Table, members: Table, rows: Table,
    recent: Table, slots: Table, counters: Table,
) -> None:  # fmt: skip
    """Take a holder off all its blocks."""
    index = Arrays(entries, segments, sets, members, rows, recent, slots, counters)
    for number in range(1, counters[NEXT_SET]):
        if sets[number, REFERENCES] and holds(sets, members, rows, number, slot):
            take_out(index, number, slot)
            if not sets[number, SIZE]:
                counters[NUM_KEYS] -= sets[number, REFERENCES]
    slots[slot, OWNED] = slots[slot, ALONE] = 0


@kernel(f"int64(int64, {KEYS}, {READ})")
def count_held(
    slot: int, keys: Table, entries: Table, segments: Table, sets: Table, members: Table, rows: Table
) -> int:
    """How many leading blocks a slot holds."""
    last = Number(-1)
    for place in range(len(keys)):
        at = find(entries, segments, keys[place])
        held_by = Number(entries[at, SET]) if at >= 0 else Number(0)
        if held_by != last and not holds(sets, members, rows, held_by, slot):
            return place
        last = held_by
    return len(keys)


@kernel(f"int64({KEYS}, {READ})")
def count_dead(
    keys: Table, entries: Table, segments: Table, sets: Table, members: Table, rows: Table
) -> int:  # fmt: skip
    """How many leading blocks have lost their last holder, and are still in the table."""
    for place in range(len(keys)):
        at = find(entries, segments, keys[place])
        if at < 0 or sets[entries[at, SET], SIZE]:
            return place
    return len(keys)


@kernel(f"int64({KEYS}, int64, {READ})")
def next_held(
    keys: Table, start: int, entries: Table, segments: Table, sets: Table, members: Table, rows: Table
) -> int:
    """The first place from ``start`` on whose block somebody holds; the end if there is none."""
    for place in range(start, len(keys)):
        at = find(entries, segments, keys[place])
        if at >= 0 and sets[entries[at, SET], SIZE]:
            return place
    return len(keys)


@helper
def note(lost: Any, word: Any, depth: Any, matched: Table) -> None:
    """Enter a depth for the slots of one word."""
    slot = 64 * word
    while lost:
        if lost & ONE:
            matched[slot] = depth
        lost >>= ONE
        slot += 1


@kernel(f"void({KEYS}, {SPANS}, int64[::1], {READ})")
def match(
    keys: Table, spans: Table, matched: Table, entries: Table, segments: Table, sets: Table, members: Table,
    rows: Table,
) -> None:  # fmt: skip
    """How many leading blocks each slot holds, into ``matched``. A span is a first place, an end, and a set
    of slots as words, which count as holders between them.
    """
    num_words = rows.shape[1]
    remaining, present = np.empty(num_words, np.uint64), np.empty(num_words, np.uint64)
    last, change = Number(-1), Number(0)
    touched = np.empty(AHEAD, np.uint32)
    for depth in range(len(keys)):
        if depth % AHEAD == 0:
            touch(entries, segments, keys, depth, touched)
        at = find(entries, segments, keys[depth])
        held_by = Number(entries[at, SET]) if at >= 0 else Number(0)
        if held_by == last and depth < change:
            continue
        last, change = held_by, len(keys)
        present[:] = 0
        if sets[held_by, SIZE] > FEW:
            present |= rows[row_of(members, held_by)]
        else:
            for place in range(sets[held_by, SIZE]):
                holder = members[held_by, place]
                present[holder >> 6] |= ONE << (np.uint64(holder) & WORD)
        for span in spans:
            first, end = Number(span[0]), Number(span[1])
            if first <= depth < end:
                present |= span[2:]
                change = min(change, end)
            elif depth < first:
                change = min(change, first)
        anybody = np.uint64(0)
        for word in range(num_words):
            if depth:
                note(remaining[word] & ~present[word], word, depth, matched)
                remaining[word] &= present[word]
            else:
                remaining[word] = present[word]
            anybody |= remaining[word]
        if not anybody:
            return
    for word in range(num_words if len(keys) else 0):
        note(remaining[word], word, len(keys), matched)
