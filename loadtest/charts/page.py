"""A report as one HTML page that needs nothing else, and its figures as JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loadtest.charts.drawing import panel_svg
from loadtest.charts.palette import SeriesStyle
from loadtest.charts.panels import Plot

ALL_DIGITS = 17
"""With so many significant digits a float is written as exactly what it is."""


def render_page(
    package: str,
    template: str,
    variables: Mapping[str, tuple[str, str]],
    styles: Mapping[str, SeriesStyle] | None = None,
    plots: Sequence[Plot] = (),
    filters: Mapping[str, Callable[..., str]] | None = None,
    **values: Any,
) -> str:
    """Fill a template of one package. It may extend and include those of `loadtest.charts`.

    ``variables`` are the CSS variables of all colours. The template gets each plot with its panels as SVG.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("loadtest.charts")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(template).render(
        variables=variables,
        styles=styles or {},
        plots=[
            (plot, [(panel, Markup(panel_svg(panel, variables))) for panel in plot.panels]) for plot in plots
        ],
        **values,
    )


def plain(value: Any, digits: int = ALL_DIGITS) -> Any:
    """What JSON can write: it has no way to write "not a number"."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(each, digits) for key, each in value.items()}
    return [plain(each, digits) for each in value] if isinstance(value, list | tuple) else value
