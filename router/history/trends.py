"""What became of requests over time, by model, tenant, replica and arm: what the dashboard's charts show.

Steps of ten seconds stay in memory for an hour, shared with all routers by `router.history.history_sharing`.
Periods of five minutes stay in Redis for a day and hours for a week; whichever router is first writes one
that is over, since all know the same. No more than `MAX_BYTES` are kept of each: where labels are too many,
the smallest count together, without labels.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

import msgspec

from router.history.buckets import HELD_BUCKETS, STEP_SECONDS
from router.history.history_store import HistoryStore
from router.history.latencies import BINS
from router.history.tallies import BIN_WIDTH, NO_LABELS, Counts, Labels, Sums

BIN_SECONDS = BINS.middle(BIN_WIDTH // 2), BINS.ratio**BIN_WIDTH
"""The time that stands for the first bin, and that of each over that of the one before."""
MAX_BYTES = {STEP_SECONDS: 16_384, 300: 65_536, 3600: 65_536}
"""Of a step of one router, and of a period of all."""
KEPT = {300: 288, 3600: 168}
"""So many periods of each length are kept in Redis."""
COMPLETE_SECONDS = 20.0
"""So long after its end all that belongs to a period is known."""


class Trends:
    """All steps of the last hour, and the way to what is older."""

    def __init__(self) -> None:
        self.current: Sums = {}
        """Of the step that is not over; see `router.history.tallies.count_request`."""
        self._steps: dict[int, list[bytes]] = {}
        self._compacted: dict[int, int] = {}

    def finish(self) -> bytes:
        """Begin the next step. Returns the one that ends, encoded; nothing where no request ended in it."""
        sums, self.current = self.current, {}
        return _encode(sums, STEP_SECONDS) if sums else b""

    def count(self, number: int, encoded: bytes) -> None:
        """Count what some router has finished. Raises `ValueError` for what another version has made."""
        if encoded:
            _decoder.decode(encoded)
            self._steps.setdefault(number, []).append(encoded)
            for old in [step for step in self._steps if step <= number - HELD_BUCKETS]:
                del self._steps[old]

    async def read(self, store: HistoryStore, step: int, numbers: range) -> AsyncIterator[tuple[int, Sums]]:
        """Steps or periods, those with requests. Raises `StoreUnavailableError` for what is not in memory."""
        if step == STEP_SECONDS:
            for number in numbers:
                if number in self._steps:
                    yield number, await _sum(self._steps[number])
            return
        async for number, encoded in store.periods(step, numbers):
            if encoded:
                yield number, await _sum([encoded])

    async def compact(self, store: HistoryStore, now: float) -> None:
        """Write the latest periods that are over where Redis lacks them. Raises `StoreUnavailableError`."""
        for step, finer, looked_at in ((300, STEP_SECONDS, 10), (3600, 300, 23)):
            next_one, width = int((now - COMPLETE_SECONDS) // step), step // finer
            if self._compacted.get(step) == next_one:
                continue
            numbers = range(next_one - looked_at, next_one)
            known = [number async for number, _ in store.periods(step, numbers)]
            for number in set(numbers).difference(known):
                total: Sums = {}
                async for _, sums in self.read(store, finer, range(number * width, (number + 1) * width)):
                    add_sums(total, sums.items())
                await store.add_period(step, number, KEPT[step], _encode(total, step) if total else b"")
            self._compacted[step] = next_one


def add_sums(total: Sums, sums: Iterable[tuple[Labels, Counts]]) -> None:
    """Add sums to others."""
    for labels, counts in sums:
        own = total.setdefault(labels, {})
        for name, count in counts.items():
            own[name] = own.get(name, 0) + count


async def _sum(parts: Iterable[bytes]) -> Sums:
    total: Sums = {}
    for encoded in parts:
        with suppress(ValueError):  # written by another version
            add_sums(total, _decoder.decode(encoded))
        await asyncio.sleep(0)  # large ones take a millisecond
    return total


def _encode(sums: Sums, step: int) -> bytes:
    encoded = msgspec.msgpack.encode(list(sums.items()))
    if len(encoded) <= MAX_BYTES[step]:
        return encoded
    largest_first = sorted(sums.items(), key=lambda item: -sum(item[1].values()))
    kept = dict(largest_first[: len(sums) // 2])
    add_sums(kept, [(NO_LABELS, counts) for _, counts in largest_first[len(sums) // 2 :]])
    return _encode(kept, step)


_decoder = msgspec.msgpack.Decoder(list[tuple[Labels, Counts]])
