"""The numbers of all replicas in one array, so that a snapshot copies them instead of asking each replica."""

import numpy as np
from numpy.typing import NDArray

from cluster.fleet.replicas import Replica
from cluster.index.index_sets import Number, Table
from cluster.protocol.wire import Booked
from policies.compiled import COUNTS, kernel
from policies.types import Counts, Mask

NUM_COLUMNS = 5
READY, PUBLISHES_EVENTS, QUEUED_TOKENS, RUNNING, ACTIVE_TOKENS = range(5)
"""Columns of the table."""
CACHED = 0
"""The row of what `ReplicaTable.read` returns that follows from the prompt; the others are the table's last
columns."""


class ReplicaTable:
    """One row per slot. A replica and what others have booked on it are the truth; `write` repeats them."""

    def __init__(self) -> None:
        self._rows: NDArray[np.int64] = np.zeros((0, NUM_COLUMNS), dtype=np.int64)

    def write(self, replica: Replica, others: Booked) -> None:
        """A replica has changed, or the sum of what other routers have booked on it."""
        if replica.slot >= len(self._rows):
            larger = np.zeros((2 * replica.slot + 1, NUM_COLUMNS), dtype=np.int64)
            larger[: len(self._rows)] = self._rows
            self._rows = larger
        self._rows[replica.slot] = _row(replica, others)

    def read(
        self, slots: NDArray[np.intp], matched: Counts, most: int, block_size: int
    ) -> tuple[Counts, Mask, int]:
        """Copies for some slots, in their order: cached, queued, running and active numbers, who is ready,
        and the most blocks that one of them holds.

        ``matched`` are the blocks of a prompt that each slot holds, or nothing; ``most`` of them count, of
        ``block_size`` tokens each.
        """
        numbers, ready = np.empty((4, len(slots)), dtype=np.int64), np.empty(len(slots), dtype=np.bool_)
        longest = _read(self._rows, slots, matched, most, block_size, numbers, ready)
        return numbers, ready, longest

    def check_integrity(self, replica: Replica, others: Booked) -> None:
        """A replica's row says what it would say if written now. Raises `AssertionError` otherwise."""
        written = tuple(self._rows[replica.slot].tolist())
        if written != _row(replica, others):
            raise AssertionError(f"{replica.lease.replica} is {_row(replica, others)}, not {written}")


def _row(replica: Replica, others: Booked) -> tuple[int, int, int, int, int]:
    """What a replica's row says, in the order of the columns."""
    return (
        replica.takes_requests,
        replica.lease.publishes_events,
        replica.queued_tokens + others.queued_tokens,
        max(replica.running + others.running, replica.load.running + replica.load.waiting),
        replica.active_tokens + others.active_tokens,
    )


@kernel(f"int64(int64[:, ::1], {COUNTS}, int64[::1], int64, int64, int64[:, ::1], boolean[::1])")
def _read(
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
