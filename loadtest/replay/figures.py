"""What a replay measured, and its figures: one row per load and policy, the best of each column marked."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from statistics import median

import numpy as np
from numpy.typing import NDArray

from loadtest.simulator.results import Run


@dataclass(frozen=True, slots=True)
class CapacityPoint:
    """The hit rate of one policy with caches of one size."""

    policy: str
    blocks_per_replica: int
    hit_rate: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """One trace, replayed through several policies at several loads."""

    title: str
    command: str
    """The command line that made it."""
    facts: Mapping[str, str]
    """Under which conditions: replicas, routers, engine profile, event lag, seeds."""
    runs: Sequence[Run]
    """At least one. Every policy at every load, with one or more seeds."""
    bound_hit_rate: float | None = None
    """The hit rate of one pooled cache of the same total size, as if replicas shared their memory."""
    capacity: Sequence[CapacityPoint] = ()
    changes: Sequence[Run] = ()
    """Runs at one load in which the fleet changes."""
    change_times: Mapping[str, float] = field(default_factory=dict)
    """What changed in them, and when, in virtual seconds."""

    def policies(self) -> list[str]:
        """All policies, in the order in which they first occur."""
        named = [run.policy for run in (*self.runs, *self.changes)]
        return list(dict.fromkeys([*named, *(point.policy for point in self.capacity)]))

    def loads(self) -> list[float]:
        """All loads, lowest first."""
        return sorted({run.load for run in self.runs})


WIDTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
MOST_WINDOWS = 80
FEWEST_REQUESTS = 5
"""A window with fewer requests has no figures."""


@dataclass(frozen=True, slots=True)
class WindowedSeries:
    """One policy over time, the median over seeds. Not a number where a window has no figure."""

    policy: str
    times: NDArray[np.float64]
    """Middle of each window, in virtual seconds."""
    ttft_p99_ms: NDArray[np.float64]
    hit_rate: NDArray[np.float64]


def window_width(runs: Sequence[Run]) -> float:
    """Seconds: the shortest that gives no more than 80 windows."""
    longest = max((run.seconds for run in runs), default=0.0)
    return next((width for width in WIDTHS if longest / width <= MOST_WINDOWS), WIDTHS[-1])


def windowed(runs: Sequence[Run]) -> list[WindowedSeries]:
    """One series per policy. A request counts in the window in which it arrived."""
    width = window_width(runs)
    count = max((int(answer.arrival // width) + 1 for run in runs for answer in run.answers), default=0)
    times = (np.arange(count, dtype=np.float64) + 0.5) * width
    series = []
    for policy in dict.fromkeys(run.policy for run in runs):
        figures = [_figures(run, width, count) for run in runs if run.policy == policy]
        # A figure must exist with every seed: a plain median keeps a gap a gap.
        p99, hit_rate = np.median(figures, axis=0)
        series.append(WindowedSeries(policy, times, p99, hit_rate))
    return series


def _figures(run: Run, width: float, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """p99 of the TTFT in milliseconds, and hit rate, in each window."""
    window = np.array([int(answer.arrival // width) for answer in run.answers], dtype=np.int64)
    ttft = np.array([answer.first_token - answer.arrival for answer in run.answers])
    prompt = np.array([answer.prompt_tokens for answer in run.answers])
    hit = np.array([answer.hit_tokens for answer in run.answers])
    p99, hit_rate = np.full(count, np.nan), np.full(count, np.nan)
    for place in range(count):
        inside = window == place
        if np.count_nonzero(inside) < FEWEST_REQUESTS:
            continue
        answered = ttft[inside & np.isfinite(ttft)]
        if answered.size:
            p99[place] = np.percentile(answered, 99) * 1000
        if prompt[inside].sum():
            hit_rate[place] = hit[inside].sum() / prompt[inside].sum()
    return p99, hit_rate


NEAR = 0.02
"""A figure within this share of the best counts as equally good."""


class Better(Enum):
    """Which figures of a column are good ones."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


class Mark(Enum):
    """How a figure compares with those of the other policies at the same load."""

    BEST = "best"
    NEAR = "near"
    NONE = ""


def milliseconds(value: float) -> str:
    """Whole milliseconds, with a decimal where they are few."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def percent(value: float) -> str:
    """A share of one."""
    return f"{value:.1%}"


@dataclass(frozen=True, slots=True)
class Column:
    """One kind of figure."""

    key: str
    label: str
    unit: str
    better: Better
    show: Callable[[float], str]

    def text(self, value: float) -> str:
        """The figure as it is shown; a dash where there is none."""
        return "-" if math.isnan(value) else self.show(value)


COLUMNS = (
    Column("ttft_mean_ms", "TTFT mean", "ms", Better.LOWER, milliseconds),
    Column("ttft_p50_ms", "TTFT p50", "ms", Better.LOWER, milliseconds),
    Column("ttft_p95_ms", "TTFT p95", "ms", Better.LOWER, milliseconds),
    Column("ttft_p99_ms", "TTFT p99", "ms", Better.LOWER, milliseconds),
    Column("hit_rate", "Hit rate", "", Better.HIGHER, "{:.3f}".format),
    Column("hit_rate_of_bound", "of pooled", "", Better.HIGHER, percent),
    Column("imbalance", "Imbalance", "", Better.LOWER, "{:.2f}".format),
    Column("utilisation", "Utilisation", "", Better.NEITHER, percent),
    Column("failures", "Failures", "", Better.LOWER, "{:,g}".format),
)
COLUMN = {column.key: column for column in COLUMNS}


@dataclass(frozen=True, slots=True)
class Row:
    """One policy at one load: the median over seeds of each figure."""

    load: float
    policy: str
    seeds: tuple[int, ...]
    requests: int
    """In one run."""
    figures: Mapping[str, float]
    """Figures by the column's key; not a number where there is none."""
    marks: Mapping[str, Mark]

    def text(self, column: Column) -> str:
        """One figure as it is shown."""
        return column.text(self.figures[column.key])


def measure(run: Run, bound_hit_rate: float | None) -> dict[str, float]:
    """All figures of one run, by the column's key."""
    times = run.ttft() * 1000
    p50, p95, p99 = np.percentile(times, [50, 95, 99]) if times.size else [math.nan] * 3
    hit_rate = run.hit_rate
    return {
        "ttft_mean_ms": float(times.mean()) if times.size else math.nan,
        "ttft_p50_ms": float(p50),
        "ttft_p95_ms": float(p95),
        "ttft_p99_ms": float(p99),
        "hit_rate": hit_rate,
        "hit_rate_of_bound": hit_rate / bound_hit_rate if bound_hit_rate else math.nan,
        "imbalance": run.imbalance,
        "utilisation": run.utilisation,
        "failures": float(run.failures),
    }


def tabulate(experiment: Experiment) -> list[Row]:
    """All rows: the lowest load first, within a load the lowest mean TTFT."""
    rows: list[Row] = []
    for load in experiment.loads():
        here = [run for run in experiment.runs if run.load == load]
        policies = dict.fromkeys(run.policy for run in here)
        group = [
            _row([run for run in here if run.policy == policy], experiment.bound_hit_rate)
            for policy in policies
        ]
        fastest = ranked(group, COLUMN["ttft_mean_ms"])
        rows += _with_marks([*fastest, *(row for row in group if row not in fastest)])
    return rows


def rows_by_load(rows: Sequence[Row]) -> dict[float, list[Row]]:
    """The rows of each load."""
    groups: dict[float, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.load, []).append(row)
    return groups


def shown_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that have a figure in any row."""
    return [column for column in COLUMNS if any(not math.isnan(row.figures[column.key]) for row in rows)]


def ranked(rows: Sequence[Row], column: Column) -> list[Row]:
    """The rows that have a figure in a column, the best first."""
    known = [row for row in rows if not math.isnan(row.figures[column.key])]
    return sorted(known, key=lambda row: row.figures[column.key], reverse=column.better is Better.HIGHER)


def _row(runs: Sequence[Run], bound_hit_rate: float | None) -> Row:
    measured = [measure(run, bound_hit_rate) for run in runs]
    return Row(
        load=runs[0].load,
        policy=runs[0].policy,
        seeds=tuple(run.seed for run in runs),
        requests=round(median(len(run.answers) for run in runs)),
        figures={column.key: median(figures[column.key] for figures in measured) for column in COLUMNS},
        marks={},
    )


def _with_marks(group: Sequence[Row]) -> list[Row]:
    marks: list[dict[str, Mark]] = [{} for _ in group]
    for column in COLUMNS:
        values = [row.figures[column.key] for row in group]
        for row_marks, mark in zip(marks, compare(values, column.better), strict=True):
            row_marks[column.key] = mark
    return [replace(row, marks=row_marks) for row, row_marks in zip(group, marks, strict=True)]


def compare(values: Sequence[float], better: Better) -> list[Mark]:
    """A mark for each value. Nothing is marked where most are best: that tells nobody apart."""
    known = [value for value in values if not math.isnan(value)]
    if better is Better.NEITHER or not known:
        return [Mark.NONE] * len(values)
    best = min(known) if better is Better.LOWER else max(known)
    if 2 * known.count(best) > len(known):
        return [Mark.NONE] * len(values)

    def mark(value: float) -> Mark:
        if value == best:
            return Mark.BEST
        return Mark.NEAR if is_near(value, best) else Mark.NONE

    return [mark(value) for value in values]


def is_near(value: float, best: float) -> bool:
    """Whether a value is within 2% of the best."""
    return abs(value - best) <= NEAR * abs(best) * (1 + 1e-9)
