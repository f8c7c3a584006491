"""What is drawn inside one pair of axes of a trial's report, beside what replays draw too."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from loadtest.charts.palette import GRID, INK
from loadtest.charts.panels import REFERENCE_LINE, Styles, plain_log_ticks, show_percent
from loadtest.trial.statistics import Interval, Slope

GROUP_WIDTH = 0.76
"""The width of one replica's bars, as a share of the distance to the next."""
TOP = 1.12
"""Room above the highest bar."""


def draw_intervals(axes: Axes, rows: Sequence[tuple[str, str, Interval]], styles: Styles) -> None:
    """One row per figure: label, the arm whose colour it has, how many times as fast, with its interval."""
    for place, (_, arm, gain) in enumerate(rows):
        style = styles[arm]
        axes.plot(
            [gain.low, gain.high], [place, place], color=style.light, linewidth=2.2, gid=style.name,
            solid_capstyle="round",
        )  # fmt: skip
        axes.plot([gain.estimate], [place], "o", markersize=6, color=style.light, gid=style.name)
        axes.annotate(
            f"{gain.estimate:.2f}", (gain.estimate, place), (0, 5), textcoords="offset points", ha="center",
            fontsize=8, color=INK,
        )  # fmt: skip
    axes.axvline(1, **REFERENCE_LINE)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    low = min([1.0, *(gain.low for _, _, gain in rows)])
    high = max([1.0, *(gain.high for _, _, gain in rows)])
    axes.set_xlim(low / 1.12, high * 1.12)
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis)
    axes.set_xlabel("times as fast; 1 is no difference")
    axes.tick_params(axis="y", length=0)


def draw_grouped(axes: Axes, bars: Mapping[str, Sequence[float]], styles: Styles, as_percent: bool) -> None:
    """Draw one bar per replica for each arm; replicas are numbered."""
    width = GROUP_WIDTH / len(bars)
    most = max(len(values) for values in bars.values())
    for place, (arm, values) in enumerate(bars.items()):
        style = styles[arm]
        offset = (place - (len(bars) - 1) / 2) * width
        numbers = np.arange(1, len(values) + 1) + offset
        for number, value in zip(numbers, values, strict=True):
            axes.bar(number, value, width * 0.9, color=style.light, gid=style.name)
    axes.set_xticks(range(1, most + 1))
    axes.set_xlim(0.5, most + 0.5)
    axes.set_xlabel("replica")
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, max(max(values, default=0.0) for values in bars.values()) * TOP or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if as_percent:
        show_percent(axes)
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def draw_line_through(
    axes: Axes,
    cold: tuple[NDArray[np.float64], NDArray[np.float64]],
    again: tuple[NDArray[np.float64], NDArray[np.float64]],
    line: Slope | None,
    colours: tuple[str, str],
) -> None:
    """TTFT in ms over uncached tokens: cold and repeated probes, and the line through all of them."""
    if line is not None:
        places = np.concatenate([cold[0], again[0]])
        values = np.concatenate([cold[1], again[1]])
        ends = np.array([0.0, places.max()])
        axes.plot(
            ends,
            values.mean() + 1000 * line.estimate * (ends - places.mean()),
            **REFERENCE_LINE,
        )
    for (places, values), colour, name in ((cold, colours[0], "cold"), (again, colours[1], "warm")):
        axes.plot(
            places, values, "o", markersize=4.5, color=colour, markeredgecolor=GRID, markeredgewidth=0.4
        )
        axes.annotate(
            name, (float(np.median(places)), float(values.max())), (0, 8), textcoords="offset points",
            ha="center", color=INK, fontsize=9,
        )  # fmt: skip
    axes.set_xlabel("prompt tokens that were in no cache")
    axes.set_xlim(left=-0.03 * float(cold[0].max()))
    axes.set_ylim(bottom=0, top=1.15 * float(max(cold[1].max(), again[1].max())))
