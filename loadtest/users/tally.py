"""What a load test has counted and timed. Tallies of several processes are added up.

Sizes are bounded: times are kept as counts per bucket of 1%, names as the first thousand.
"""

import math
from typing import TypeVar

import msgspec

BUCKET = math.log(1.01)
MAX_NAMES = 1000
OTHERS = "others"

T = TypeVar("T")


class Times(msgspec.Struct):
    """Durations in seconds; percentiles are within 0.5%."""

    count: int = 0
    total: float = 0.0
    longest: float = 0.0
    buckets: dict[int, int] = {}
    """Number of the bucket to how many."""

    def add(self, seconds: float) -> None:
        """One more. What is shorter than a microsecond counts as one."""
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        bucket = round(math.log(max(seconds, 1e-6)) / BUCKET)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def merge(self, other: "Times") -> None:
        """Add another one's figures."""
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def percentile(self, percent: float) -> float | None:
        """The smallest duration that ``percent`` of all do not exceed; None without any."""
        left = math.ceil(self.count * percent / 100) or 1
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return min(math.exp(bucket * BUCKET), self.longest)
        return None

    @property
    def mean(self) -> float | None:
        """None without any."""
        return self.total / self.count if self.count else None


class Row(msgspec.Struct):
    """Requests of one sort."""

    requests: int = 0
    """Requests that were answered."""
    failures: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    known_prompt_tokens: int = 0
    """Prompt tokens of those answers that say what was cached."""
    cached_tokens: int = 0
    latency: Times = msgspec.field(default_factory=Times)
    ttft: Times = msgspec.field(default_factory=Times)
    time_per_output_token: Times = msgspec.field(default_factory=Times)

    def merge(self, other: "Row") -> None:
        """Add another one's figures."""
        self.requests += other.requests
        self.failures += other.failures
        self.prompt_tokens += other.prompt_tokens
        self.output_tokens += other.output_tokens
        self.known_prompt_tokens += other.known_prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.latency.merge(other.latency)
        self.ttft.merge(other.ttft)
        self.time_per_output_token.merge(other.time_per_output_token)

    @property
    def hit_rate(self) -> float | None:
        """Cached share of the prompt tokens; None where no server says."""
        return self.cached_tokens / self.known_prompt_tokens if self.known_prompt_tokens else None


class Work(msgspec.Struct):
    """What one process of the generator has used."""

    cpu_seconds: float = 0.0
    waited_seconds: float = 0.0
    """How long it waited for a CPU that others were using."""
    seconds: float = 0.0


class Tally(msgspec.Struct):
    """All figures of one test, or of the part of it that one process has seen."""

    first_turns: dict[str, Row] = {}
    """First turns by kind of users: they are cold, but for what other conversations share."""
    later_turns: dict[str, Row] = {}
    replicas: dict[str, Row] = {}
    errors: dict[str, int] = {}
    lag: Times = msgspec.field(default_factory=Times)
    """How much too late the generator's own greenlets woke."""
    behind: Times = msgspec.field(default_factory=Times)
    """How much too late requests of a trace went out."""
    work: dict[str, Work] = {}
    """What each process has used, by its name."""

    def merge(self, other: "Tally") -> None:
        """Add another one's figures."""
        for mine, others in (
            (self.first_turns, other.first_turns),
            (self.later_turns, other.later_turns),
            (self.replicas, other.replicas),
        ):
            for name, row in others.items():
                bounded(mine, name, Row).merge(row)
        for message, count in other.errors.items():
            self.count_error(message, count)
        self.lag.merge(other.lag)
        self.behind.merge(other.behind)
        for process, work in other.work.items():
            self.add_work(process, work)

    def count_error(self, message: str, count: int = 1) -> None:
        """One more request that failed with this message."""
        name = message if message in self.errors or len(self.errors) < MAX_NAMES else OTHERS
        self.errors[name] = self.errors.get(name, 0) + count

    def add_work(self, process: str, more: Work) -> None:
        """What a process has used besides."""
        work = bounded(self.work, process, Work)
        work.cpu_seconds += more.cpu_seconds
        work.waited_seconds += more.waited_seconds
        work.seconds += more.seconds


def bounded(rows: dict[str, T], name: str, make: type[T]) -> T:
    """The row of that name, a new one if need be; the one of all `OTHERS` when there are too many."""
    if name not in rows and len(rows) >= MAX_NAMES:
        name = OTHERS
    return rows.setdefault(name, make())


def total_of(rows: dict[str, Row]) -> Row:
    """All of them together."""
    total = Row()
    for row in rows.values():
        total.merge(row)
    return total
