"""The compiled part of `loadtest.doctor.block_memory`: hash tables from block keys to what is known of them.

Open addressing with linear probing; keys are hashes already, and 0 marks a free place.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

MAX_TOUCHES = 255


def compiled(function: Function) -> Function:
    """Compiled at its first call, and kept on disk."""
    result: Function = numba.njit(cache=True)(function)
    return result


@compiled
def place_of(table: Any, key: Any) -> Any:
    """Where a key stands, or could stand."""
    mask = np.uint64(len(table) - 1)
    place = (key ^ (key >> np.uint64(32))) & mask
    while table[place] != 0 and table[place] != key:
        place = (place + np.uint64(1)) & mask
    return place


@compiled
def add_weight(tree: Any, time: Any, weight: Any) -> None:
    """Add to one element of a Fenwick tree, which is numbered from 1."""
    while time < len(tree):
        tree[time] += weight
        time += time & -time


@compiled
def weight_until(tree: Any, time: Any) -> Any:
    """Sum of the elements 1 to ``time``."""
    total = 0
    while time > 0:
        total += tree[time]
        time -= time & -time
    return total


@compiled
def touch(
    keys: Any, now: Any, limit: Any, table: Any, last: Any, touches: Any, tree: Any, live: Any, histogram: Any
) -> Any:
    """Look up and store the blocks of one prompt, touched at time ``now``.

    Counts in ``histogram[distance, touches]`` those of the first ``limit`` that were there with all before
    them. The distance is the number of different blocks touched since, these included, as its place on a
    scale with 8 steps to an octave. Returns how many were there, and how many are new.
    """
    hits, new, run_time, run_place = 0, 0, 0, 0
    leading = True
    touched = 0
    for number in range(len(keys)):
        key = keys[number]
        place = place_of(table, key)
        if table[place] == 0:
            leading = False
            table[place] = key
            touches[place] = 0
            new += 1
        else:
            time = last[place]
            if leading and number < limit:
                if time != run_time:
                    # Blocks of this prompt that were moved to `now` still count as touched since.
                    distance = live - weight_until(tree, time - 1) + touched
                    run_place = min(int(np.log2(distance) * 8), len(histogram) - 1) if distance > 0 else 0
                    run_time = time
                hits += 1
                histogram[run_place, touches[place]] += 1
            add_weight(tree, time, -1)
            live -= 1
            touched += 1
        last[place] = now
        touches[place] = min(touches[place] + 1, MAX_TOUCHES)
    add_weight(tree, now, len(keys))
    return hits, new


@compiled
def refill(keys: Any, last: Any, touches: Any, table: Any, new_last: Any, new_touches: Any) -> None:
    """Move entries into larger, or emptier, arrays."""
    for number in range(len(keys)):
        if keys[number] != 0:
            place = place_of(table, keys[number])
            table[place] = keys[number]
            new_last[place] = last[number]
            new_touches[place] = touches[number]


@compiled
def touch_variants(keys: Any, bits: Any, table: Any, masks: Any, leading: Any) -> Any:
    """Store the blocks for every variant in ``bits``; how many leading ones each had goes to ``leading``.

    Returns how many keys are new.
    """
    alive, new, total = bits, 0, len(leading)
    for number in range(len(keys)):
        place = place_of(table, keys[number])
        if table[place] == 0:
            table[place] = keys[number]
            masks[place] = 0
            new += 1
        ended = alive & ~masks[place]
        if ended != 0:
            for bit in range(total):
                if ended & (np.uint64(1) << np.uint64(bit)):
                    leading[bit] = number
            alive &= masks[place]
        masks[place] |= bits
    for bit in range(total):
        if alive & (np.uint64(1) << np.uint64(bit)):
            leading[bit] = len(keys)
    return new


@compiled
def refill_variants(keys: Any, masks: Any, table: Any, new_masks: Any) -> None:
    """Move entries into larger arrays."""
    for number in range(len(keys)):
        if keys[number] != 0:
            place = place_of(table, keys[number])
            table[place] = keys[number]
            new_masks[place] = masks[number]
