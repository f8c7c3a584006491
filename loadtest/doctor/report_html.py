"""The diagnosis as one page that needs nothing else, with a plot of the hit rate by size of the cache."""

import math

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from loadtest.charts.drawing import panel_svg
from loadtest.charts.page import render_page
from loadtest.charts.palette import EMPHASIS, GROUND, OTHERS, SeriesStyle
from loadtest.charts.panels import Panel, draw_lines, show_percent
from loadtest.doctor import wording
from loadtest.doctor.diagnosis import Diagnosis, Sizing
from loadtest.doctor.kinds import REMEDIES
from loadtest.doctor.wording import size

NOW, MENDED = OTHERS[1], EMPHASIS
COLOURS = GROUND | {"now": NOW, "mended": MENDED}
"""CSS variables: the colour on light and on dark ground."""
STYLES = {
    "as it is": SeriesStyle(1, *NOW, dash=(3.0, 2.0), width=2.0),
    "all mended": SeriesStyle(0, *MENDED, dash=(), width=2.0),
}
INCHES = (7.0, 3.3)
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


def curve_svg(sizing: Sizing) -> str:
    """The plot as an SVG element that takes its colours from the page; "" when nothing is ever found."""
    lines = dict(zip(STYLES, (sizing.curve, sizing.curve_mended), strict=True))
    capacities = [capacity for line in lines.values() for capacity, _ in line]
    if not capacities:
        return ""
    first, last = math.log2(min(capacities)), math.log2(max(capacities))
    step = max(round((last - first) / 5), 1)
    series = {
        name: ([*(x for x, _ in line), 2**last], [*(y for _, y in line), line[-1][1]])
        for name, line in lines.items()
        if line
    }

    def draw(axes: Axes) -> None:
        draw_lines(axes, series, STYLES, points=False)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(
            FixedLocator([2.0**power for power in range(math.ceil(first), math.floor(last) + 1, step)])
        )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda capacity, _: _label(capacity, sizing)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"cache, {'KV memory' if sizing.need.bytes_per_token else 'tokens'}")
        axes.set_ylim(0, 1)
        axes.set_yticks(RATES)
        show_percent(axes)

    ends = ", ".join(f"{name} {rates[-1]:.0%}" for name, (_, rates) in series.items())
    description = f"Hit rate by size of the cache; at the right end: {ends}"
    return panel_svg(Panel("Hit rate", description, draw), COLOURS, INCHES)


def _label(capacity: float, sizing: Sizing) -> str:
    if sizing.need.bytes_per_token:
        return size(capacity * sizing.need.bytes_per_token)
    return f"{capacity / 1000:,.0f}k" if capacity >= 1024 else f"{capacity:.0f}"


MAX_OPENINGS = 20
MAX_PERSONAL = 50


def as_html(diagnosis: Diagnosis, command: str) -> str:
    """The page."""
    most = max((finding.tokens for finding in diagnosis.findings), default=1)
    return render_page(
        "loadtest.doctor",
        "doctor.html.j2",
        COLOURS,
        diagnosis=diagnosis,
        facts=diagnosis.facts,
        rates=diagnosis.hit_rates,
        sizing=diagnosis.sizing,
        remedies=REMEDIES,
        wording=wording,
        most=max(most, 1),
        openings=diagnosis.openings[:MAX_OPENINGS],
        personal=diagnosis.personal[:MAX_PERSONAL],
        curve=Markup(curve_svg(diagnosis.sizing)),
        caveats=wording.caveats(diagnosis),
        command=command,
    )
