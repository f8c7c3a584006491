"""Writes the report of a replay: one HTML page that needs nothing else, plots as PNG, figures as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loadtest.replay.drawing import panel_svg, write_png
from loadtest.replay.experiment import Experiment
from loadtest.replay.figures import COLUMNS, NEAR, Mark, Row, measure, rows_by_load, shown_columns, tabulate
from loadtest.replay.palette import css_variables, series_styles
from loadtest.replay.plots import plots_of
from loadtest.replay.verdict import judge
from loadtest.replay.windows import window_width, windowed
from policies.catalog import DEFAULT_POLICY


def write_report(experiment: Experiment, directory: Path) -> Path:
    """Write `report.html`, `results.json` and the PNG files. Returns the path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = tabulate(experiment)
    (directory / "results.json").write_text(json.dumps(as_json(experiment, rows), indent=1) + "\n")

    styles = series_styles(experiment.policies(), DEFAULT_POLICY)
    variables = css_variables(styles)
    plots = plots_of(experiment, rows, styles)
    for plot in plots:
        write_png(plot, styles, experiment.title, directory / f"{plot.name}.png")

    environment = Environment(
        loader=PackageLoader("loadtest.replay"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        experiment=experiment,
        default=DEFAULT_POLICY,
        verdict=judge(rows, DEFAULT_POLICY, experiment.bound_hit_rate),
        columns=shown_columns(rows),
        groups=rows_by_load(rows),
        marks=Mark,
        seeds=max(len(row.seeds) for row in rows),
        styles=styles,
        variables=variables,
        plots=[
            (plot, [(panel, Markup(panel_svg(panel, variables))) for panel in plot.panels]) for plot in plots
        ],
    )
    path = directory / "report.html"
    path.write_text(page)
    return path


def as_json(experiment: Experiment, rows: Sequence[Row]) -> dict[str, Any]:
    """All figures of the report; null where there is none."""
    return {
        "title": experiment.title,
        "command": experiment.command,
        "facts": dict(experiment.facts),
        "default_policy": DEFAULT_POLICY,
        "bound_hit_rate": experiment.bound_hit_rate,
        "near": NEAR,
        "columns": [
            {"key": column.key, "label": column.label, "unit": column.unit, "better": column.better.value}
            for column in COLUMNS
        ],
        "rows": [
            {
                "load": row.load,
                "policy": row.policy,
                "seeds": row.seeds,
                "requests": row.requests,
                **_plain(row.figures),
                "marks": {key: mark.value for key, mark in row.marks.items() if mark is not Mark.NONE},
            }
            for row in rows
        ],
        "runs": [
            {
                "load": run.load,
                "policy": run.policy,
                "workload": run.workload,
                "seed": run.seed,
                "requests": len(run.answers),
                **_plain(measure(run, experiment.bound_hit_rate)),
            }
            for run in experiment.runs
        ],
        "capacity": [
            {
                "policy": point.policy,
                "blocks_per_replica": point.blocks_per_replica,
                "hit_rate": point.hit_rate,
            }
            for point in experiment.capacity
        ],
        "changes": {
            "times": dict(experiment.change_times),
            "window_seconds": window_width(experiment.changes),
            "series": [
                {
                    "policy": one.policy,
                    "time": one.times.tolist(),
                    "ttft_p99_ms": [_number(value) for value in one.ttft_p99_ms.tolist()],
                    "hit_rate": [_number(value) for value in one.hit_rate.tolist()],
                }
                for one in windowed(experiment.changes)
            ],
        },
    }


def _plain(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {key: _number(value) for key, value in figures.items()}


def _number(value: float) -> float | None:
    """JSON has no way to write "not a number"."""
    return None if math.isnan(value) else value
