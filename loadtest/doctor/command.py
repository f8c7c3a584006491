"""``warmroute doctor``: examines a log, shows how far it is, writes the report."""

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cluster.errors import StartUpError
from cluster.process.progress import step
from cluster.prompts.tokenizer import forgo_torch
from cluster.serve.model_files import default_cache_directory, ensure_demo_model
from loadtest.doctor.diagnosis import Diagnosis
from loadtest.doctor.examine import Question, examine
from loadtest.doctor.log_requests import LogLines, check_readable
from loadtest.doctor.report_html import as_html
from loadtest.doctor.report_json import as_json
from loadtest.doctor.report_text import print_report
from loadtest.doctor.settings import DoctorSettings

UPDATE_SECONDS = 0.2
FILE_WIDTH = 110
"""Characters per line of a text report that goes to a file."""


def doctor(settings: DoctorSettings, command: str, console: Console, progress: Console) -> None:
    """Do all that is asked for. ``command`` is what the user typed, for the report."""
    if settings.model is not None and not (settings.model / "tokenizer.json").is_file():
        raise StartUpError(f"--model {settings.model}: no directory with a tokenizer.json")
    if settings.log != "-":
        check_readable(settings.log)
    if settings.output is not None and not settings.output.parent.is_dir():
        raise StartUpError(f"--output {settings.output}: no such directory")
    model = settings.model or _stand_in(progress)
    forgo_torch()
    question = Question(
        log=settings.log,
        model=model,
        stand_in=settings.model is None,
        block_size=settings.block_size,
        kv_gib=settings.kv_memory,
    )
    _write(_examine(question, progress), settings, command, console)


def _stand_in(progress: Console) -> Path:
    with step(progress, "Model") as current:
        return ensure_demo_model(default_cache_directory(), current.update, weights=False)


def _examine(question: Question, console: Console) -> Diagnosis:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as bar:
        task = bar.add_task("Loading the tokenizer", total=None)
        shown = 0.0

        def update(log: LogLines, requests: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= UPDATE_SECONDS:
                shown = now
                bar.update(
                    task,
                    description=f"{requests:,} requests",
                    completed=log.bytes_read,
                    total=log.size or None,
                )

        return examine(question, update)


def _write(diagnosis: Diagnosis, settings: DoctorSettings, command: str, console: Console) -> None:
    if settings.format == "text":
        if settings.output is None:
            print_report(diagnosis, console)
            return
        with _opened(settings.output).open("w", encoding="utf-8") as file:
            print_report(diagnosis, Console(file=file, width=FILE_WIDTH, highlight=False))
    else:
        report = as_json(diagnosis) if settings.format == "json" else as_html(diagnosis, command)
        if settings.output is None:
            sys.stdout.write(report)
            return
        _opened(settings.output).write_text(report, encoding="utf-8")
    console.print(f"Report: {settings.output}", soft_wrap=True, markup=False)


def _opened(path: Path) -> Path:
    try:
        path.touch()
    except OSError as error:
        raise StartUpError(f"--output {path}: {error.strerror}") from error
    return path
