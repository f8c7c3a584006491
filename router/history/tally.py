"""What became of the requests of one replica: sums that add up over buckets of time and over routers.

All are whole numbers, so sums stay exact whatever is added to them and taken off again.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from enum import IntEnum
from typing import TypeAlias, TypeVar

import msgspec

from router.explain.misses import Reason
from router.history.record import RequestRecord

FAILED = ("failed", "broken")
"""Outcomes that are the fault of the replica, or of the way to it."""
REASONS = tuple(Reason)
REASON_NAMES = tuple(reason.value for reason in REASONS)
_PLACES = {reason: place for place, reason in enumerate(REASONS)}

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
    """What computing the delivered tokens would have taken."""
    FIRST_MISS = 7
    """From here on the tokens computed again, by reason, in the order of `REASONS`."""


NUM_COLUMNS = Column.FIRST_MISS + len(REASONS)


class Tally:
    """Sums of requests that have something in common."""

    __slots__ = ("available", "delivered", "failures", "misses", "predicted", "prompt", "requests", "saved")

    def __init__(self) -> None:
        self.requests = self.failures = 0
        self.prompt = self.available = self.predicted = self.delivered = 0
        self.saved = 0
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
        self.saved += round(cached * record.seconds_per_token * 1e6)
        if record.misses:
            for reason, tokens in record.misses.items():
                self.misses[_PLACES[reason]] += tokens

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
    saved_seconds: float
    """The time to compute these tokens at each replica's measured pace; nothing before that is measured."""

    @classmethod
    def of(cls, row: Sequence[int]) -> Rates:
        """The rates that a row of sums amounts to."""
        requests, failures, prompt, available, predicted, delivered, saved, *misses = row
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
            saved / 1e6,
        )
