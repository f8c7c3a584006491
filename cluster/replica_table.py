"""The numbers of all replicas in one array, so that a snapshot copies them instead of asking each replica."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.replicas import Replica
from cluster.wire import Booked

COLUMNS = np.dtype(
    [
        ("ready", np.bool_),
        ("publishes_events", np.bool_),
        ("queued_tokens", np.int64),
        ("running", np.int64),
        ("active_tokens", np.int64),
    ],
    align=True,
)
"""What a snapshot shows of each replica besides what it holds. A new one is entered here, in `_row` and in
`Fleet.snapshot`.
"""


class ReplicaTable:
    """One row per slot. A replica and what others have booked on it are the truth; `write` repeats them."""

    def __init__(self) -> None:
        self._rows: NDArray[np.void] = np.zeros(0, COLUMNS)

    def write(self, replica: Replica, others: Booked) -> None:
        """A replica has changed, or the sum of what other routers have booked on it."""
        if replica.slot >= len(self._rows):
            larger = np.zeros(2 * replica.slot + 1, COLUMNS)
            larger[: len(self._rows)] = self._rows
            self._rows = larger
        self._rows[replica.slot] = _row(replica, others)

    def read(self, slots: NDArray[np.intp]) -> NDArray[np.void]:
        """A copy of some rows, in the order of ``slots``."""
        return self._rows.take(slots)

    def check_integrity(self, replica: Replica, others: Booked) -> None:
        """A replica's row says what it would say if written now. Raises `AssertionError` otherwise."""
        written = self._rows[replica.slot].item()
        if written != _row(replica, others):
            raise AssertionError(f"{replica.lease.replica} is {_row(replica, others)}, not {written}")


def _row(replica: Replica, others: Booked) -> tuple[Any, ...]:
    """In the order of `COLUMNS`."""
    return (
        replica.takes_requests,
        replica.lease.publishes_events,
        replica.queued_tokens + others.queued_tokens,
        max(replica.running + others.running, replica.load.running + replica.load.waiting),
        replica.active_tokens + others.active_tokens,
    )
