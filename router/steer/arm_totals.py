"""What one arm of an experiment has counted: sums that add up over routers, in bounded memory.

Conversations are drawn by lot, not requests, and the requests of one conversation resemble each other. So
sums are kept for 64 groups of whole conversations: how much the groups differ tells how far a figure can be
trusted (`router.steer.experiment_report`), without remembering a single conversation.
"""

from enum import IntEnum

import msgspec
import numpy as np

from router.steer.geometric_bins import GeometricBins

GROUPS = 64
TTFT_BINS = GeometricBins(error=0.02)


class ArmColumn(IntEnum):
    """What is summed up for each group."""

    REQUESTS = 0
    FAILURES = 1
    CANCELLED = 2
    PROMPT_TOKENS = 3
    PREDICTED_CACHED_TOKENS = 4
    DELIVERED_CACHED_TOKENS = 5
    STREAMS = 6
    """Streams that have begun: the only answers that have a time to the first token."""
    TTFT_SECONDS = 7


class _Encoded(msgspec.Struct, frozen=True, array_like=True):
    sums: bytes
    ttfts: bytes


class ArmTotals:
    """Sums of one arm: about 7 KB, however many requests."""

    def __init__(self) -> None:
        self.sums = np.zeros((GROUPS, len(ArmColumn)))
        """One row per group of conversations."""
        self._ttfts = np.zeros(TTFT_BINS.size, dtype=np.int64)

    def add(self, group: int, values: dict[ArmColumn, float]) -> None:
        """Count one request of a group of conversations."""
        for column, value in values.items():
            self.sums[group, column] += value
        if ArmColumn.TTFT_SECONDS in values:
            self._ttfts[TTFT_BINS.place_of(values[ArmColumn.TTFT_SECONDS])] += 1

    def total(self, column: ArmColumn) -> float:
        """Sum over all groups."""
        return float(self.sums[:, column].sum())

    def ttft_percentile(self, percent: float) -> float | None:
        """Seconds, within 2% of the exact percentile; None when there is no sample."""
        seconds = TTFT_BINS.percentiles(self._ttfts, [percent])
        return seconds[0] if seconds else None

    def merge(self, other: "ArmTotals") -> None:
        """Add what another router has counted."""
        self.sums += other.sums
        self._ttfts += other._ttfts

    def encode(self) -> bytes:
        """The sums as bytes for Redis."""
        return msgspec.msgpack.encode(_Encoded(self.sums.tobytes(), self._ttfts.tobytes()))

    @classmethod
    def decode(cls, data: bytes) -> "ArmTotals":
        """What `encode` made. Raises `ValueError` for anything else, such as that of another version."""
        totals = cls()
        encoded = msgspec.msgpack.decode(data, type=_Encoded)
        totals.sums += np.frombuffer(encoded.sums).reshape(totals.sums.shape)
        if len(encoded.ttfts) != totals._ttfts.nbytes:
            raise ValueError("another number of buckets")
        totals._ttfts += np.frombuffer(encoded.ttfts, dtype=np.int64)
        return totals
