"""What one process has counted of requests at replicas: in the current bucket of time, and in all.

Sums are whole numbers that add up over buckets of time and over routers: they stay exact whatever is added
to them and taken off again.
"""

import operator
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import TypeAlias, TypeVar

import msgspec

from router.explain.misses import Reason
from router.history.record import RequestRecord

FAILED = ("failed", "broken")
"""Outcomes that are the fault of the replica, or of the way to it."""
REASONS = tuple(Reason)
REASON_NAMES = tuple(reason.value for reason in REASONS)
PLACES = {reason: place for place, reason in enumerate(REASONS)}

Row: TypeAlias = tuple[int, ...]
"""All sums, ordered as `Column`."""


class Column(IntEnum):
    """Where each sum stands in a row. Tokens count only where the engine reported what it had cached."""

    REQUESTS = 0
    FAILURES = 1
    PROMPT_TOKENS = 2
    AVAILABLE_TOKENS = 3
    PREDICTED_TOKENS = 4
    DELIVERED_TOKENS = 5
    SAVED_MICROSECONDS = 6
    """What computing the delivered tokens would have taken, of those that follow."""
    PRICED_TOKENS = 7
    """Delivered by replicas whose pace had been measured."""
    FIRST_MISS = 8
    """From here on the tokens computed again, by reason, in the order of `REASONS`."""


NUM_COLUMNS = Column.FIRST_MISS + len(REASONS)


class Tally:
    """Sums of requests that have something in common."""

    __slots__ = (
        "available", "delivered", "failures", "misses", "predicted", "priced", "prompt", "requests", "saved"
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests = self.failures = 0
        self.prompt = self.available = self.predicted = self.delivered = 0
        self.priced = self.saved = 0
        """The time saved, in microseconds."""
        self.misses = [0] * len(REASONS)

    def add(self, record: RequestRecord) -> None:
        """Count a finished request. Where the engine does not report its cache only the request counts."""
        self.requests += 1
        if record.outcome in FAILED:
            self.failures += 1
        usage = record.usage
        if usage is None or (cached := usage.cached_tokens) is None:
            return
        self.prompt += usage.prompt_tokens
        self.available += record.available_cached_tokens
        self.predicted += record.expected_cached_tokens
        self.delivered += cached
        if record.seconds_per_token:
            self.priced += cached
            self.saved += round(cached * record.seconds_per_token * 1e6)
        if record.misses:
            for reason, tokens in record.misses.items():
                self.misses[PLACES[reason]] += tokens

    def row(self) -> Row:
        """All sums, ordered as `Column`."""
        return (
            self.requests,
            self.failures,
            self.prompt,
            self.available,
            self.predicted,
            self.delivered,
            self.saved,
            self.priced,
            *self.misses,
        )


K = TypeVar("K")


def add_row(rows: dict[K, Row], key: K, row: Row) -> None:
    """Add a row to what stands under a key."""
    rows[key] = sum_of([rows[key], row]) if key in rows else row


def sum_of(rows: Sequence[Sequence[int]]) -> Row:
    """Rows added up, of which there is at least one."""
    first, *others = rows
    for other in others:
        first = tuple(map(operator.add, first, other))
    return tuple(first)


def seconds_saved(tokens: int, microseconds: int, priced: int) -> float | None:
    """The time that saved tokens would have taken; None where it is not known of any of them."""
    return microseconds / 1e6 if priced or not tokens else None


class Rates(msgspec.Struct, frozen=True, gc=False):
    """How well caches served over some time, as the admin API shows it."""

    requests: int
    failures: int
    prompt_tokens: int
    """This and all that follows counts only requests whose engine reported what it had cached."""
    available_tokens: int
    """The most that any one replica was believed to hold of each prompt."""
    predicted_tokens: int
    """What the chosen one was believed to hold."""
    delivered_tokens: int
    """What the engines reported to have had."""
    available: float | None
    """The share of the prompt tokens that were available; None without any."""
    predicted: float | None
    delivered: float | None
    misses: dict[Reason, int]
    """Tokens computed again: every reason, also those with none."""
    saved_tokens: int
    saved_seconds: float | None
    """The time to compute these tokens at each replica's measured pace; None where no pace was known."""
    priced_tokens: int
    """Those of the saved tokens whose replica's pace was known."""

    @classmethod
    def of(cls, row: Sequence[int]) -> "Rates":
        """The rates that a row of sums amounts to."""
        requests, failures, prompt, available, predicted, delivered, saved, priced, *misses = row
        return cls(
            requests,
            failures,
            prompt,
            available,
            predicted,
            delivered,
            available / prompt if prompt else None,
            predicted / prompt if prompt else None,
            delivered / prompt if prompt else None,
            dict(zip(REASONS, misses, strict=True)),
            delivered,
            seconds_saved(delivered, saved, priced),
            priced,
        )


LABELS = ("replica", "model", "policy", "arm", "reason")
TallyLabels: TypeAlias = tuple[str, str, str, str, str]
"""Values of `LABELS`."""
Rows: TypeAlias = dict[TallyLabels, Row]


Labels: TypeAlias = tuple[str, str, str, str]
"""Model, tenant, replica and arm; "" where a request never got so far."""
Counts: TypeAlias = dict[int, int]
"""Requests by HTTP status, and what the numbers below stand for; tokens as `Tally` counts them."""
Sums: TypeAlias = dict[Labels, Counts]

PROMPT, AVAILABLE, PREDICTED, DELIVERED, OUTPUT = range(1, 6)
FIRST_MISS = 10
"""From here on tokens computed again, by reason."""
_STATUSES = {"cancelled": 499, "broken": 599}
"""What counts as the status of requests that their clients gave up, and of streams that broke off."""
FIRST_BIN = 1000
"""From here on streams by time to the first token."""
BIN_WIDTH = 5
"""Bins of `BINS` in one here: percentiles are within 5%."""
NO_LABELS: Labels = ("", "", "", "")


class Tallies:
    """Sums of all requests of this process that came to a replica, by `LABELS`."""

    def __init__(self) -> None:
        self._current: dict[str, dict[TallyLabels, Tally]] = {}
        """The tallies of the current bucket of time, by replica."""
        self._before: dict[str, Rows] = {}
        """The sums of all buckets that are over, by replica."""

    def add(self, record: RequestRecord) -> None:
        """Count a finished request."""
        replica = record.replica
        labels = (replica, record.model, record.policy, record.arm, record.reason)
        try:
            tally = self._current[replica][labels]
        except KeyError:
            tally = self._current.setdefault(replica, {}).setdefault(labels, Tally())
        tally.add(record)

    def current(self, replica: str) -> Iterator[Row]:
        """Sums of one replica in the current bucket."""
        return (tally.row() for tally in self._current.get(replica, {}).values())

    def all_current(self) -> Rows:
        """Sums of all replicas in the current bucket."""
        return {
            labels: tally.row() for by_labels in self._current.values() for labels, tally in by_labels.items()
        }

    def finish(self) -> Rows:
        """Begin the next bucket. Returns the sums of the one that ends."""
        finished = self.all_current()
        self._current = {}
        self.add_before(finished)
        return finished

    def add_before(self, rows: Mapping[TallyLabels, Row]) -> None:
        """Count what is part of no current bucket."""
        for labels, row in rows.items():
            add_row(self._before.setdefault(labels[0], {}), labels, row)

    def since_start(self) -> Rows:
        """All sums."""
        rows = {labels: row for before in self._before.values() for labels, row in before.items()}
        for labels, row in self.all_current().items():
            add_row(rows, labels, row)
        return rows

    def replicas(self) -> set[str]:
        """The replicas of which anything was counted."""
        return {*self._before, *self._current}

    def forget(self, replica: str) -> None:
        """Drop what was counted of a replica before the current bucket."""
        self._before.pop(replica, None)


def count_request(sums: Sums, record: RequestRecord, ttft_bin: int | None) -> None:
    """Count a request that has ended, for trends; a stream with its place in `BINS`."""
    labels = (record.model, record.tenant, record.replica, record.arm)
    counts = sums.get(labels)
    if counts is None:
        counts = sums[labels] = defaultdict(int)
    counts[_STATUSES.get(record.outcome) or record.status] += 1
    if ttft_bin is not None:
        counts[FIRST_BIN + ttft_bin // BIN_WIDTH] += 1
    if (usage := record.usage) is None:
        return
    counts[OUTPUT] += usage.completion_tokens or 0
    if (cached := usage.cached_tokens) is None:
        return
    counts[PROMPT] += usage.prompt_tokens
    counts[AVAILABLE] += record.available_cached_tokens
    counts[PREDICTED] += record.expected_cached_tokens
    counts[DELIVERED] += cached
    if record.misses:
        for reason, tokens in record.misses.items():
            counts[FIRST_MISS + PLACES[reason]] += tokens
