"""Turns plots into PNG files, and panels into SVG that takes its colours from the page around it."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from loadtest.charts.palette import GRID, INK, MUTED, PAPER
from loadtest.charts.panels import Panel, Plot, Styles

PANEL_INCHES = (4.5, 3.1)
PNG_DOTS_PER_INCH = 160
RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": PAPER,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.labelcolor": INK,
    "lines.dash_capstyle": "butt",
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched, and uses the page's font
    "svg.hashsalt": "warmroute",  # the same report has the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.color": MUTED,
    "ytick.major.size": 3,
}
HEX_COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def write_png(plot: Plot, styles: Styles, title: str, path: Path) -> None:
    """All panels of one plot in one picture, with its legend beside them."""
    columns = min(len(plot.panels), 2)
    lines = -(-len(plot.panels) // columns)
    with matplotlib.rc_context(RC):
        figure = Figure(
            figsize=(PANEL_INCHES[0] * columns + 1.9, PANEL_INCHES[1] * lines + 0.4), layout="constrained"
        )
        figure.suptitle(f"{plot.heading} · {title}", x=0.01, ha="left", fontsize=11, color=INK)
        handles: dict[str, Artist] = {}
        for place, panel in enumerate(plot.panels):
            axes = figure.add_subplot(lines, columns, place + 1)
            panel.draw(axes)
            axes.set_title(panel.title)
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        ordered = {policy: handles[policy] for policy in styles if policy in handles}
        if any(panel.needs_legend for panel in plot.panels):
            figure.legend(list(ordered.values()), list(ordered), loc="outside right upper")
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=PNG_DOTS_PER_INCH, metadata={"Description": plot.reading})


def panel_svg(
    panel: Panel, variables: Mapping[str, tuple[str, str]], inches: tuple[float, float] = PANEL_INCHES
) -> str:
    """One panel as an SVG element to stand in a page that defines the colours as CSS variables."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=inches, layout="constrained")
        axes: Axes = figure.add_subplot()
        panel.draw(axes)
        FigureCanvasSVG(figure)
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    names = {light: name for name, (light, _) in variables.items()}
    return _for_page(ElementTree.fromstring(buffer.getvalue()), panel, names)


def _for_page(root: ElementTree.Element, panel: Panel, colour_names: Mapping[str, str]) -> str:
    """Drop what a page does not need, and let its style sheet decide about colours."""

    def variable(match: re.Match[str]) -> str:
        name = colour_names.get(match.group())
        return f"var(--{name})" if name else match.group()

    for parent in root.iter():
        for child in [child for child in parent if child.tag.endswith(("}style", "}metadata"))]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in list(element.attrib):
            value = element.attrib.pop(name)
            element.set(
                name.rpartition("}")[2], HEX_COLOUR.sub(variable, value) if name == "style" else value
            )
        if element.tag == "g":
            group = element.attrib.pop("id", "")
            if group.startswith("series-"):
                element.set("class", f"series {group}")
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": panel.description}
    return ElementTree.tostring(root, encoding="unicode")
