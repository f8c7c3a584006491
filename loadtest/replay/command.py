"""``warmroute replay``: surveys the workload, plays all runs, shows and writes down what they measured."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from loadtest.options import make_directory
from loadtest.replay.describe import facts_of, failures_in, introduction, title_of
from loadtest.replay.figures import (
    CapacityPoint,
    Column,
    Experiment,
    Mark,
    Row,
    rows_by_load,
    shown_columns,
    tabulate,
)
from loadtest.replay.pool import Workers, start_workers
from loadtest.replay.report import write_report
from loadtest.replay.run import Task, changes_of, play, tasks_of
from loadtest.replay.settings import ReplaySettings
from loadtest.replay.survey import Survey, survey
from loadtest.replay.verdict import judge
from loadtest.simulator.results import Run
from policies.catalog import DEFAULT_POLICY

SYMBOLS = {Mark.BEST: "●", Mark.NEAR: "○", Mark.NONE: " "}
LEGEND = "● best at this load   ○ within 2% of it   medians over seeds"
BREAKS = {"Imbalance": "Imbal-\nance", "Utilisation": "Utili-\nsation", "Failures": "Fail-\nures"}
"""Headings that are wider than their figures, and where they break."""
STYLES = {Mark.BEST: "bold", Mark.NEAR: "", Mark.NONE: ""}


def results_table(rows: Sequence[Row], default: str) -> Table:
    """One section per load. The default policy's name is bold."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1), caption=LEGEND, caption_justify="left"
    )
    table.add_column("policy", no_wrap=True, min_width=8)
    columns = shown_columns(rows)
    for column in columns:
        heading = BREAKS.get(column.label, column.label.replace(" ", "\n"))
        width = max(len(row.text(column)) for row in rows) + 1
        unit = f" {column.unit}" if column.unit else ""
        table.add_column(f"{heading}{unit} ", justify="right", no_wrap=True, min_width=width)
    for load, group in rows_by_load(rows).items():
        table.add_row(Text(f"load {load:g}", style="underline"))
        for number, row in enumerate(group):
            name = Text(row.policy, style="bold" if row.policy == default else "")
            cells = [_cell(row, column) for column in columns]
            table.add_row(name, *cells, end_section=number == len(group) - 1)
    return table


def _cell(row: Row, column: Column) -> Text:
    mark = row.marks[column.key]
    return Text(f"{row.text(column)}{SYMBOLS[mark]}", style=STYLES[mark])


LEFT_OUT_FIRST = ("utilisation", "imbalance", "hit_rate_of_bound", "ttft_p50_ms", "ttft_p95_ms", "failures")
"""Columns, where the terminal is too narrow for all."""


def replay(settings: ReplaySettings, command: str, console: Console, progress: Console) -> None:
    """Do all that is asked for. ``command`` is what the user typed, for the report."""
    source, _ = settings.source(), settings.plan()  # both complain before anything is written
    directory = make_directory(settings.output or Path(f"replay-{source.name}"))
    experiment = measure_all(settings, command, console, progress)
    with progress.status("Drawing the report"):
        path = write_report(experiment, directory)
    _show(experiment, tabulate(experiment), settings, console)
    console.print(f"Report: {escape(str(path))}", soft_wrap=True)


def measure_all(settings: ReplaySettings, command: str, console: Console, progress: Console) -> Experiment:
    """Say what will be played, and play it."""
    source, plan = settings.source(), settings.plan()
    with start_workers(settings.jobs) as workers:
        with progress.status("Reading the workload"):
            of_seeds = [(source, plan, settings.load, seed) for seed in range(settings.seeds)]
            surveys = workers.map(survey, of_seeds)
        for line in introduction(settings, surveys[0]):
            console.print(f"{escape(line)}.")
        tasks = tasks_of(settings, surveys[0])
        console.print(f"{len(tasks)} runs, {min(settings.jobs, len(tasks))} at a time.\n")
        runs = _play(tasks, workers, progress)
    return _experiment(settings, command, surveys, tasks, runs)


def _play(tasks: Sequence[Task], workers: Workers, progress: Console) -> list[Run]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs, left:"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=progress, transient=True, speed_estimate_period=600) as bar:
        shown = bar.add_task("Playing", total=len(tasks))
        return workers.map(play, [(task,) for task in tasks], done=lambda: bar.advance(shown))


def _experiment(
    settings: ReplaySettings,
    command: str,
    surveys: Sequence[Survey],
    tasks: Sequence[Task],
    runs: Sequence[Run],
) -> Experiment:
    plan, first = settings.plan(), surveys[0]
    steady = [run for task, run in zip(tasks, runs, strict=True) if task.plan == plan]
    changes = [run for task, run in zip(tasks, runs, strict=True) if task.plan.changes]
    capacity = [
        CapacityPoint(run.policy, task.plan.profile.num_blocks, run.hit_rate)
        for task, run in zip(tasks, runs, strict=True)
        if settings.capacity and not task.plan.changes and task.load == first.middle_load
    ]
    bounds = [survey.bound_hit_rate for survey in surveys if survey.bound_hit_rate is not None]
    return Experiment(
        title=title_of(settings),
        command=command,
        facts=facts_of(settings, first, changes),
        runs=steady,
        bound_hit_rate=median(bounds) if bounds else None,
        capacity=capacity,
        changes=changes,
        change_times={str(change.kind): change.at for change in changes_of(settings, first)},
    )


def _show(experiment: Experiment, rows: Sequence[Row], settings: ReplaySettings, console: Console) -> None:
    console.print(fitting_table(rows, console))
    verdict = judge(rows, DEFAULT_POLICY, experiment.bound_hit_rate)
    console.print(escape(f"\n{verdict.headline} {verdict.failures}"))
    if experiment.changes:
        failures = failures_in(experiment.changes)
        console.print(f"The runs in which the fleet changes are in the report. {failures}.")
    if settings.seeds == 1:
        console.print("One seed: small differences may be chance. --seeds 5 takes the median of five.")


def fitting_table(rows: Sequence[Row], console: Console) -> Table:
    """The results, in as many columns as the terminal has room for."""
    table = results_table(rows, DEFAULT_POLICY)
    left_out: dict[str, float] = {}
    for key in LEFT_OUT_FIRST:
        if Measurement.get(console, console.options.update(width=1000), table).maximum <= console.width:
            break
        left_out[key] = math.nan
        shown = [replace(row, figures={**row.figures, **left_out}) for row in rows]
        table = results_table(shown, DEFAULT_POLICY)
    return table
