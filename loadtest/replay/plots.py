"""Which plots a replay has, and what each of them shows."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from matplotlib.axes import Axes

from loadtest.charts.panels import (
    Panel,
    Plot,
    Series,
    Styles,
    as_series,
    cdf_curve,
    draw_bars,
    draw_cdf,
    draw_changes,
    draw_lines,
    draw_reference,
    make_logarithmic,
    name_ends,
    ticks_at,
)
from loadtest.replay.figures import (
    COLUMN,
    CapacityPoint,
    Column,
    Experiment,
    Row,
    WindowedSeries,
    ranked,
    rows_by_load,
    window_width,
    windowed,
)


def plots_of(experiment: Experiment, rows: Sequence[Row], styles: Styles) -> list[Plot]:
    """All plots for which there are measurements, and in which something can be compared."""
    plots = [_cdf(experiment, rows, styles)]
    if len(rows) > 1:
        plots.append(_ttft(rows, styles))
    hit_rate = _hit_rate(experiment, rows, styles)
    if hit_rate.panels:
        plots.append(hit_rate)
    if len(rows) > 1:
        plots.append(_balance(rows, styles))
    if experiment.changes:
        plots.append(_changes(experiment, styles))
    return plots


def _cdf(experiment: Experiment, rows: Sequence[Row], styles: Styles) -> Plot:
    groups = rows_by_load(rows)
    curves = {load: _curves(experiment, load, styles) for load in groups}
    times = [value for lines in curves.values() for line in lines.values() for value in line[0]]
    limits = (min(times) / 1.1, max(times) * 1.1) if times else None
    panels = []
    for load, group in groups.items():
        panels.append(
            Panel(
                f"Load {load:g}",
                f"Cumulative distribution of the TTFT at load {load:g}, one line per policy. "
                f"{_extremes(group, COLUMN['ttft_p50_ms'])} {_extremes(group, COLUMN['ttft_p99_ms'])}",
                partial(draw_cdf, curves=curves[load], styles=styles, limits=limits),
            )
        )
    return Plot(
        "ttft-cdf",
        "Time to the first token",
        "How many requests had their first token after how long; further left is better. The vertical axis "
        "is stretched towards both ends, so that the slowest hundredth can be read as well as the middle.",
        panels,
    )


def _curves(experiment: Experiment, load: float, styles: Styles) -> Series:
    runs = [run for run in experiment.runs if run.load == load]
    curves = {
        policy: cdf_curve([1000 * run.ttft() for run in runs if run.policy == policy]) for policy in styles
    }
    return {policy: curve for policy, curve in curves.items() if curve is not None}


def _ttft(rows: Sequence[Row], styles: Styles) -> Plot:
    panels = []
    for title, column in (("Mean", COLUMN["ttft_mean_ms"]), ("p99", COLUMN["ttft_p99_ms"])):
        panels.append(_against_load(title, column, rows, styles, logarithmic=True))
    return Plot("ttft-load", "Mean and p99 TTFT", "Time to the first token; lower is better.", panels)


def _hit_rate(experiment: Experiment, rows: Sequence[Row], styles: Styles) -> Plot:
    bound = experiment.bound_hit_rate
    panels = []
    if len(rows) > 1:
        title = "Against load" if len(experiment.loads()) > 1 else f"At load {rows[0].load:g}"
        panels.append(_against_load(title, COLUMN["hit_rate"], rows, styles, bound=bound))
    reading = "Share of all prompt tokens that engines found in their caches; higher is better."
    if bound is not None:
        reading += " Dashed: one pooled cache of the same total size, as if all replicas shared their memory."
    if len({point.blocks_per_replica for point in experiment.capacity}) > 1:
        panels.append(_against_capacity(experiment.capacity, styles))
    return Plot("hit-rate", "Hit rate", reading, panels)


def _balance(rows: Sequence[Row], styles: Styles) -> Plot:
    panels = [
        _against_load(column.label, column, rows, styles)
        for column in (COLUMN["imbalance"], COLUMN["utilisation"])
    ]
    return Plot(
        "balance",
        "Balance",
        "Imbalance: prompt tokens computed by the busiest replica, over the mean of all; 1 is perfect. "
        "Utilisation: the share of time in which replicas were computing.",
        panels,
    )


def _against_capacity(points: Sequence[CapacityPoint], styles: Styles) -> Panel:
    rates: dict[tuple[str, int], list[float]] = {}
    for point in sorted(points, key=lambda point: point.blocks_per_replica):
        rates.setdefault((point.policy, point.blocks_per_replica), []).append(point.hit_rate)
    series = as_series((policy, blocks, median(seeds)) for (policy, blocks), seeds in rates.items())
    sizes = sorted({blocks for _, blocks in rates})

    def draw(axes: Axes) -> None:
        draw_lines(axes, series, styles, points=True)
        axes.set_xscale("log")
        ticks_at(axes.xaxis, sizes)
        axes.set_xlabel("blocks per replica")
        name_ends(axes, series, styles)

    each = " ".join(f"{policy}: {line[1][0]:.3f} to {line[1][-1]:.3f}." for policy, line in series.items())
    description = (
        f"Hit rate against cache capacity, from {sizes[0]:,} to {sizes[-1]:,} blocks per replica. {each}"
    )
    return Panel("Against cache capacity", description, draw, needs_legend=False)


def _changes(experiment: Experiment, styles: Styles) -> Plot:
    series = windowed(experiment.changes)
    times = experiment.change_times
    width = window_width(experiment.changes)
    what = " and ".join(f"{name} at {time:g} s" for name, time in times.items())

    def panel(title: str, values: Callable[[WindowedSeries], Series], scale: Callable[[Axes], None]) -> Panel:
        lines = {policy: line for one in series for policy, line in values(one).items()}

        def draw(axes: Axes) -> None:
            draw_lines(axes, lines, styles, points=False)
            draw_changes(axes, times)
            scale(axes)

        return Panel(title, f"{title} in windows of {width:g} s, one line per policy; {what}.", draw)

    return Plot(
        "changes",
        "While the fleet changes",
        f"In windows of {width:g} s, by the time at which requests arrived. Vertical lines: {what}.",
        [
            panel("TTFT p99, ms", lambda one: {one.policy: (one.times, one.ttft_p99_ms)}, make_logarithmic),
            panel("Hit rate", lambda one: {one.policy: (one.times, one.hit_rate)}, lambda axes: None),
        ],
    )


def _against_load(
    title: str,
    column: Column,
    rows: Sequence[Row],
    styles: Styles,
    logarithmic: bool = False,
    bound: float | None = None,
) -> Panel:
    """A line over all loads for each policy; bars when there is one load only."""
    groups = rows_by_load(rows)
    loads = list(groups)
    title = f"{title}, {column.unit}" if column.unit else title

    def draw(axes: Axes) -> None:
        if len(loads) == 1:
            bars = {row.policy: (row.figures[column.key], row.text(column)) for row in ranked(rows, column)}
            draw_bars(axes, bars, styles, bound)
            return
        series = as_series((row.policy, row.load, row.figures[column.key]) for row in rows)
        draw_lines(axes, series, styles, points=True)
        ticks_at(axes.xaxis, loads)
        axes.set_xlabel("load, times the original rate")
        if logarithmic:
            make_logarithmic(axes)
        if bound is not None:
            draw_reference(axes, bound)
        name_ends(axes, series, styles, None if bound is None else (bound, "pooled cache"))

    shown = (
        f"at load {loads[0]:g}" if len(loads) == 1 else f"at loads {', '.join(f'{load:g}' for load in loads)}"
    )
    description = f"{column.label} of each policy {shown}."
    for load in dict.fromkeys((loads[0], loads[-1])):
        description += f" Load {load:g}: {_extremes(groups[load], column)}"
    return Panel(title, description, draw, needs_legend=False)


def _extremes(group: Sequence[Row], column: Column) -> str:
    """The first and the last in the order of a column, in words."""
    known = ranked(group, column)
    if not known:
        return f"{column.label}: none."
    unit = f" {column.unit}" if column.unit else ""
    first, last = (f"{row.policy} with {row.text(column)}{unit}" for row in (known[0], known[-1]))
    return f"{column.label}: {first}." if len(known) == 1 else f"{column.label}: from {first} to {last}."
