"""Writes the report of a replay: one HTML page that needs nothing else, plots as PNG, figures as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.charts.drawing import write_png
from loadtest.charts.page import plain, render_page
from loadtest.charts.palette import css_variables, series_styles
from loadtest.replay.figures import (
    COLUMNS,
    NEAR,
    Experiment,
    Mark,
    Row,
    measure,
    rows_by_load,
    shown_columns,
    tabulate,
    window_width,
    windowed,
)
from loadtest.replay.plots import plots_of
from loadtest.replay.verdict import judge
from policies.catalog import DEFAULT_POLICY


def write_report(experiment: Experiment, directory: Path) -> Path:
    """Write `report.html`, `results.json` and the PNG files. Returns the path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = tabulate(experiment)
    (directory / "results.json").write_text(json.dumps(plain(as_json(experiment, rows)), indent=1) + "\n")

    styles = series_styles(experiment.policies(), DEFAULT_POLICY)
    variables = css_variables(styles)
    plots = plots_of(experiment, rows, styles)
    for plot in plots:
        write_png(plot, styles, experiment.title, directory / f"{plot.name}.png")

    page = render_page(
        "loadtest.replay",
        "replay.html.j2",
        variables,
        styles,
        plots,
        experiment=experiment,
        default=DEFAULT_POLICY,
        verdict=judge(rows, DEFAULT_POLICY, experiment.bound_hit_rate),
        columns=shown_columns(rows),
        groups=rows_by_load(rows),
        marks=Mark,
        seeds=max(len(row.seeds) for row in rows),
    )
    path = directory / "report.html"
    path.write_text(page)
    return path


def as_json(experiment: Experiment, rows: Sequence[Row]) -> dict[str, Any]:
    """All figures of the report; not a number where there is none."""
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
                **row.figures,
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
                **measure(run, experiment.bound_hit_rate),
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
                    "ttft_p99_ms": one.ttft_p99_ms.tolist(),
                    "hit_rate": one.hit_rate.tolist(),
                }
                for one in windowed(experiment.changes)
            ],
        },
    }
