"""The compiled part of `cluster.fleet.replica_table`: one call where numpy would take twenty."""

from cluster.index.index_sets import Number, Table
from policies.compiled import COUNTS, kernel

READY, PUBLISHES_EVENTS, QUEUED_TOKENS, RUNNING, ACTIVE_TOKENS = range(5)
"""Columns of the table."""
CACHED = 0
"""The row of `read` that follows from the prompt; the others are the table's last columns."""


@kernel(f"int64(int64[:, ::1], {COUNTS}, int64[::1], int64, int64, int64[:, ::1], boolean[::1])")
def read(
    rows: Table, slots: Table, matched: Table, most: int, block_size: int, numbers: Table, ready: Table
) -> int:
    """Write the cached, queued, running and active numbers of some slots into ``numbers``, and who is ready.

    ``matched`` are the blocks of a prompt that each slot holds, or nothing; at most ``most`` of them count.
    Returns the largest number of blocks that one of them holds.
    """
    longest = Number(0)
    for number in range(len(slots)):
        slot = slots[number]
        ready[number] = rows[slot, READY] != 0
        blocks = matched[slot] if len(matched) else Number(0)
        longest = max(longest, blocks)
        numbers[CACHED, number] = min(blocks, most) * block_size * rows[slot, PUBLISHES_EVENTS]
        for column in range(QUEUED_TOKENS, ACTIVE_TOKENS + 1):
            numbers[column - 1, number] = rows[slot, column]
    return int(longest)
