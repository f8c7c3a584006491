"""The table: medians over rounds, and ratios against one router."""

import statistics
from collections.abc import Mapping, Sequence

from rich.table import Table

from loadtest.bench.contestants import DIRECT, REFERENCE
from loadtest.bench.load import Figures

TTFT_ROWS = ("TTFT p50, ms", "TTFT p99, ms")


def results(figures: Mapping[str, Sequence[Figures]]) -> Table:
    """One row per figure, one column per router."""
    figures = with_added_latency(figures)
    table = Table()
    table.add_column("measure", no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    rows = dict.fromkeys(row for rounds in figures.values() for values in rounds for row in values)
    for row in rows:
        cells = []
        for name, rounds in figures.items():
            reference = [] if name in (REFERENCE, DIRECT) else figures.get(REFERENCE, [])
            cells.append(_cell(row, rounds, reference))
        table.add_row(row, *cells)
    return table


def with_added_latency(figures: Mapping[str, Sequence[Figures]]) -> dict[str, list[Figures]]:
    """The figures, with what each router adds to the TTFT of its round without a router."""
    direct = figures.get(DIRECT)
    if not direct:
        return {name: list(rounds) for name, rounds in figures.items()}
    return {
        name: [
            {**ours, **{f"added {row}": ours[row] - theirs[row] for row in ours if row in TTFT_ROWS}}
            for ours, theirs in zip(rounds, direct, strict=True)
        ]
        for name, rounds in figures.items()
    }


def _cell(row: str, rounds: Sequence[Figures], reference: Sequence[Figures]) -> str:
    values = [figures[row] for figures in rounds if row in figures]
    if not values:
        return "-"
    median = statistics.median(values)
    text = f"{median:,.0f}" if abs(median) >= 100 else f"{median:.1f}"
    pairs = [
        (ours[row], theirs[row]) for ours, theirs in zip(rounds, reference, strict=False) if row in theirs
    ]
    if not pairs or any(ours <= 0 or theirs <= 0 for ours, theirs in pairs):
        return text
    return f"{text} ({statistics.median(ours / theirs for ours, theirs in pairs):.2f}x)"
