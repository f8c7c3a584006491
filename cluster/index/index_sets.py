"""Sets of holders, shared by the blocks that have the same. Compiled into `cluster.index.index_kernels`.

A set counts its entries. Up to 8 holders are a sorted list of slots in the set itself, more are a row of
bits. An entry whose holders change moves to another set: to one met shortly before, if it is the same.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.compiled import helper

LOW, HIGH, SET = range(3)
"""Columns of an entry."""
START, CAPACITY, USED = range(3)
"""Columns of a segment: its first entry, how many it has room for now, and how many are there."""
REFERENCES, SIZE = range(2)
"""Columns of a set: entries, and holders. Of a free set, the second is the next free one."""
OWNED, ALONE = range(2)
"""Columns of a slot: its blocks, and the set in which it is alone (0 is none)."""
NUM_KEYS, REFUSED, FREE_SET, NEXT_SET, FREE_ROW, NEXT_ROW, MAX_CAPACITY = range(7)
"""Counters. Free sets and rows are chained; from the next ones on, none has been used yet. A
segment has room for the maximal capacity at most."""
FEW = 8
"""Holders that stand in the set itself."""
SMALL_SEGMENT = 1024
FULL, FRESH, SPREAD = 0.8, 0.66, 0.08
"""Share of a segment's entries at which it is laid out anew, and the share after that. The latter varies, so
that segments grow one after the other and not all at once."""
MIN_CAPACITY = 16
RECENT_BITS = 16
RECENT_SHIFT = np.uint64(64 - RECENT_BITS)
WORD = np.uint64(63)
ONE = np.uint64(1)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Table = NDArray[Any]
Number: Any = np.int64
"""Places and counts; together with unsigned ones numba would make them floating-point numbers."""


class Arrays(NamedTuple):
    """Everything that a table consists of."""

    entries: Table
    segments: Table
    sets: Table
    members: Table
    rows: Table
    recent: Table
    """Sets by the hash of their holders: the last one with that hash, which may have changed since."""
    slots: Table
    counters: Table


READ = "uint32[:, ::1], int64[:, ::1], uint32[:, ::1], uint16[:, ::1], uint64[:, ::1]"
ARRAYS = f"{READ}, uint32[::1], int64[:, ::1], int64[::1]"
KEYS = "Array(uint64, 1, 'C', readonly=True)"
SPANS = "Array(uint64, 2, 'C', readonly=True)"


@helper
def has_room(index: Arrays) -> Any:
    """Whether there is a free set, and a free row."""
    counters = index.counters
    return (counters[FREE_SET] or counters[NEXT_SET] < len(index.sets)) and (
        counters[FREE_ROW] or counters[NEXT_ROW] < len(index.rows)
    )


@helper
def new_set(index: Arrays) -> Any:
    """A set without holders and entries."""
    counters = index.counters
    number = counters[FREE_SET]
    if number:
        counters[FREE_SET] = index.sets[number, SIZE]
    else:
        number = counters[NEXT_SET]
        counters[NEXT_SET] += 1
    index.sets[number, SIZE] = 0
    return number


@helper
def new_row(index: Arrays, number: Any) -> Any:
    """An empty row for a set."""
    counters = index.counters
    row = counters[FREE_ROW]
    if row:
        counters[FREE_ROW] = Number(index.rows[row, 0])
    else:
        row = counters[NEXT_ROW]
        counters[NEXT_ROW] += 1
    index.rows[row] = 0
    index.members[number, 0], index.members[number, 1] = row & 0xFFFF, row >> 16
    return row


@helper
def row_of(members: Table, number: Any) -> Any:
    """The row of a set of more than a few."""
    return Number(members[number, 0]) | (Number(members[number, 1]) << 16)


@helper
def free_row(index: Arrays, row: Any) -> None:
    """Nobody uses this row any longer."""
    index.rows[row, 0] = index.counters[FREE_ROW]
    index.counters[FREE_ROW] = row


@helper
def release(index: Arrays, number: Any) -> Any:
    """One entry less; whether the set is gone with it."""
    index.sets[number, REFERENCES] -= np.uint32(1)
    if index.sets[number, REFERENCES]:
        return False
    size = index.sets[number, SIZE]
    if size == 1 and index.slots[index.members[number, 0], ALONE] == number:
        index.slots[index.members[number, 0], ALONE] = 0
    free_set(index, number)
    return True


@helper
def free_set(index: Arrays, number: Any) -> None:
    """A set that no entry has."""
    if index.sets[number, SIZE] > FEW:
        free_row(index, row_of(index.members, number))
    index.sets[number, SIZE] = index.counters[FREE_SET]
    index.counters[FREE_SET] = number


@helper
def holds(sets: Table, members: Table, rows: Table, number: Any, slot: Any) -> Any:
    """Whether a slot is in a set."""
    size = sets[number, SIZE]
    if size > FEW:
        word = rows[row_of(members, number), slot >> 6]
        return ((word >> (np.uint64(slot) & WORD)) & ONE) != 0
    for place in range(size):  # noqa: SIM110 (numba compiles no generators)
        if members[number, place] == slot:
            return True
    return False


@helper
def copy(index: Arrays, number: Any) -> Any:
    """Another set of the same holders."""
    other = new_set(index)
    index.sets[other, SIZE] = index.sets[number, SIZE]
    if index.sets[number, SIZE] > FEW:
        row = row_of(index.members, number)
        index.rows[new_row(index, other)] = index.rows[row]
    else:
        index.members[other] = index.members[number]
    return other


@helper
def put_in(index: Arrays, number: Any, slot: Any) -> None:
    """One more holder, who is not in the set yet."""
    size, members = Number(index.sets[number, SIZE]), index.members[number]
    index.sets[number, SIZE] = size + 1
    if size < FEW:
        place = size
        while place > 0 and members[place - 1] > slot:
            members[place] = members[place - 1]
            place -= 1
        members[place] = slot
        return
    if size == FEW:
        few = members.copy()
        row = new_row(index, number)
        for holder in few:
            index.rows[row, holder >> 6] |= ONE << (np.uint64(holder) & WORD)
    index.rows[row_of(index.members, number), slot >> 6] |= ONE << (np.uint64(slot) & WORD)


@helper
def take_out(index: Arrays, number: Any, slot: Any) -> None:
    """One holder less, who is in the set."""
    size, members = Number(index.sets[number, SIZE]), index.members[number]
    index.sets[number, SIZE] = size - 1
    if size > FEW:
        row = row_of(index.members, number)
        index.rows[row, slot >> 6] &= ~(ONE << (np.uint64(slot) & WORD))
        if size == FEW + 1:
            place = 0
            for holder in range(64 * index.rows.shape[1]):
                if (index.rows[row, holder >> 6] >> (np.uint64(holder) & WORD)) & ONE:
                    members[place] = holder
                    place += 1
            free_row(index, row)
        return
    place = 0
    while members[place] != slot:
        place += 1
    for later in range(place, size - 1):
        members[later] = members[later + 1]


@helper
def shared(index: Arrays, number: Any) -> Any:
    """A set that has just been made, or an equal one from before in its place."""
    size, members = index.sets[number, SIZE], index.members[number]
    hashed = np.uint64(size)
    if size > FEW:
        for word in index.rows[row_of(index.members, number)]:
            hashed = (hashed ^ word) * MULTIPLIER
            hashed ^= hashed >> np.uint64(32)
    else:
        for place in range(size):
            hashed = (hashed ^ np.uint64(members[place])) * MULTIPLIER
    place = Number(hashed >> RECENT_SHIFT)
    known = index.recent[place]
    if known != number and index.sets[known, REFERENCES] and equal(index, known, number):
        free_set(index, number)
        return Number(known)
    index.recent[place] = number
    return number


@helper
def equal(index: Arrays, number: Any, other: Any) -> Any:
    """Whether two sets have the same holders."""
    size = index.sets[number, SIZE]
    if size != index.sets[other, SIZE]:
        return False
    if size > FEW:
        row, other_row = row_of(index.members, number), row_of(index.members, other)
        for word in range(index.rows.shape[1]):
            if index.rows[row, word] != index.rows[other_row, word]:
                return False
        return True
    for place in range(size):  # noqa: SIM110
        if index.members[number, place] != index.members[other, place]:
            return False
    return True


@helper
def alone(index: Arrays, slot: Any) -> Any:
    """The set of one slot."""
    number = index.slots[slot, ALONE]
    if not number:
        number = new_set(index)
        put_in(index, number, slot)
        index.slots[slot, ALONE] = number
    return number


@helper
def with_slot(index: Arrays, number: Any, slot: Any) -> Any:
    """The set that an entry of this one moves to when a slot joins. Needs a free set and row."""
    if not index.sets[number, SIZE]:
        return alone(index, slot)
    if holds(index.sets, index.members, index.rows, number, slot):
        return Number(number)
    other = copy(index, number)
    put_in(index, other, slot)
    return shared(index, other)


@helper
def without_slot(index: Arrays, number: Any, slot: Any) -> Any:
    """The set that an entry of this one moves to when a slot leaves; 0 is none. Needs a free set and row."""
    if not holds(index.sets, index.members, index.rows, number, slot):
        return Number(number)
    size = index.sets[number, SIZE]
    if size == 1:
        return Number(0)
    if size == 2:
        members = index.members[number]
        return alone(index, Number(members[1] if members[0] == slot else members[0]))
    other = copy(index, number)
    take_out(index, other, slot)
    return shared(index, other)
