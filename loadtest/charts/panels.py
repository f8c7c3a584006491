"""What charts are made of, and what is drawn inside one pair of axes; nothing of files or pages."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from loadtest.charts.palette import INK, MUTED, PAPER, SeriesStyle

REFERENCE_DASH = (0, (2, 2))
REFERENCE_LINE: dict[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": REFERENCE_DASH, "zorder": 1}
NAME_HEIGHT = 0.056
"""The height of a line of text, as a share of the axes' height."""
CDF_TICKS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
LOG_STEPS = (
    (1.3, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)),
    (2.2, (1.0, 2.0, 5.0)),
    (3.2, (1.0, 3.0)),
    (math.inf, (1.0,)),
)
"""Up to so many decades of a logarithmic axis, the ticks in each decade."""

Styles = Mapping[str, SeriesStyle]
Series = Mapping[str, tuple[Sequence[float] | NDArray[np.float64], Sequence[float] | NDArray[np.float64]]]
"""Policy to its points, x and y."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    description: str
    """What it shows, for those who cannot see it."""
    draw: Callable[[Axes], None]
    needs_legend: bool = True
    """Whether lines do not carry their policies' names themselves."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One or more panels that are looked at together."""

    name: str
    """The name of its PNG file."""
    heading: str
    reading: str
    """What it shows, in a sentence or two."""
    panels: Sequence[Panel]


def as_series(points: Iterable[tuple[str, float, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """Points, each with the name of its line, as lines."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for name, x, y in points:
        line = series.setdefault(name, ([], []))
        line[0].append(x)
        line[1].append(y)
    return series


def draw_lines(axes: Axes, series: Series, styles: Styles, points: bool) -> None:
    """One line per policy, the emphasised one above the others; optionally a mark on every point."""
    for policy, style in styles.items():
        if policy not in series:
            continue
        axes.plot(
            *series[policy],
            color=style.light,
            linewidth=style.width,
            linestyle=(0, style.dash) if style.dash else "-",
            marker="o" if points else "",
            markersize=2 + 1.2 * style.width,
            markeredgecolor=PAPER,
            markeredgewidth=0.6,
            zorder=3 if style.number == 0 else 2,
            gid=style.name,
            label=policy,
        )


def draw_bars(
    axes: Axes, bars: Mapping[str, tuple[float, str]], styles: Styles, reference: float | None
) -> None:
    """One bar per policy, with its name and its value: for what was measured at one load only."""
    for place, (policy, (value, text)) in enumerate(bars.items()):
        style = styles[policy]
        axes.barh(place, value, height=0.5, color=style.light, gid=style.name)
        beside = axes.annotate(
            text, (value, place), (4, 0), textcoords="offset points", va="center", color=INK
        )
        beside.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 0.5})
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.margins(x=0.16)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    if reference is not None:
        axes.axvline(reference, **REFERENCE_LINE)


def name_ends(axes: Axes, series: Series, styles: Styles, reference: tuple[float, str] | None = None) -> None:
    """Write each policy's name at the right end of its line, moved apart where they would overlap.

    Scales must be set before. ``reference`` is a height and the name of the line there.
    """
    axes.autoscale_view()  # matplotlib would only do so when it draws, and ends are placed by the limits
    ends = {
        policy: (points[0][-1], points[1][-1])
        for policy, points in series.items()
        if not math.isnan(points[1][-1])
    }
    if reference is not None:
        ends[reference[1]] = (axes.get_xlim()[1], reference[0])
    to_axes = axes.transData + axes.transAxes.inverted()
    places = {name: to_axes.transform(end) for name, end in ends.items()}
    names = sorted(places, key=lambda name: float(places[name][1]))
    heights = spread([float(places[name][1]) for name in names], NAME_HEIGHT)
    for name, height in zip(names, heights, strict=True):
        style = styles.get(name)
        axes.plot(
            [places[name][0], 1.02, 1.06],
            [places[name][1], places[name][1], height],
            transform=axes.transAxes,
            color=style.light if style else MUTED,
            linewidth=0.7,
            clip_on=False,
            gid=style.name if style else None,
        )
        axes.annotate(
            name,
            (1.07, height),
            xycoords="axes fraction",
            va="center",
            fontsize=8,
            fontweight="bold" if style and style.number == 0 else "normal",
            color=INK if style else MUTED,
            annotation_clip=False,
        )


def spread(heights: Sequence[float], apart: float) -> list[float]:
    """Move ascending heights little, until neighbours are far enough apart and none is above 1."""
    groups: list[list[float]] = []  # of heights that push each other: [sum of (height - offset), count]
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1:
            (low_sum, low_count), (high_sum, high_count) = groups[-2:]
            if high_sum / high_count - low_sum / low_count >= apart * (low_count + high_count) / 2:
                break
            groups[-2:] = [[low_sum + high_sum, low_count + high_count]]
    placed = []
    for total, count in groups:
        first = total / count - apart * (count - 1) / 2
        placed += [first + apart * number for number in range(int(count))]
    room = [1 - apart * number for number in reversed(range(len(placed)))]
    return [min(pair) for pair in zip(placed, room, strict=True)]


def draw_cdf(axes: Axes, curves: Series, styles: Styles, limits: tuple[float, float] | None) -> None:
    """Distribution of the TTFT; both axes are stretched so that fast, usual and slow requests can be read."""
    draw_lines(axes, curves, styles, points=False)
    if limits is not None:
        axes.set_xlim(*limits)
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
    axes.set_yscale("logit")
    axes.set_ylim(CDF_TICKS[0], CDF_TICKS[-1])
    axes.yaxis.set_major_locator(FixedLocator(CDF_TICKS))
    show_percent(axes)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("TTFT, ms")
    axes.set_ylabel("requests answered by then")


def show_percent(axes: Axes) -> None:
    """Show shares of one, on the vertical axis, as percent."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))


def cdf_curve(times: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Durations and the share of requests that took no longer; the median over seeds at each share."""
    if not times or not all(seed.size for seed in times):
        return None
    logits = np.linspace(math.log(0.01 / 0.99), math.log(0.999 / 0.001), 160)
    shares = 1 / (1 + np.exp(-logits))
    shares = shares[shares <= 1 - 1 / (1 + min(seed.size for seed in times))]
    return np.median([np.quantile(seed, shares) for seed in times], axis=0), shares


def draw_reference(axes: Axes, height: float, text: str = "") -> None:
    """A horizontal line that others are compared with, and perhaps what it means."""
    axes.axhline(height, **REFERENCE_LINE)
    axes.annotate(
        text, (0, height), (4, 3), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
        color=MUTED, fontsize=8,
    )  # fmt: skip


def draw_changes(axes: Axes, change_times: Mapping[str, float]) -> None:
    """A vertical line, with its name, wherever the fleet changes."""
    for name, time in change_times.items():
        axes.axvline(time, color=MUTED, linewidth=1, zorder=1)
        axes.annotate(
            name, (time, 1), (0, 4), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
            ha="center", color=INK,
        )  # fmt: skip
    axes.set_xlabel("virtual time, s")


def make_logarithmic(axes: Axes) -> None:
    """A vertical axis on which equal distances are equal ratios, just large enough for what was drawn."""
    low, high = axes.dataLim.intervaly
    if 0 < low <= high < math.inf:
        axes.set_ylim(low / 1.15, high * 1.15)
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)


def plain_log_ticks(axis: Axis) -> None:
    """A logarithmic axis with numbers as people write them, as many as its range needs."""
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    if decades < 0.8:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        steps = next(steps for most, steps in LOG_STEPS if decades <= most)
        axis.set_major_locator(LogLocator(subs=steps, numticks=30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def ticks_at(axis: Axis, values: Sequence[float]) -> None:
    """Ticks where something was measured, and nowhere else."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())
