"""The options of ``warmroute doctor``; `cluster.cli` hands its arguments over unread."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.settings import load_settings
from loadtest.doctor.command import doctor as examine_log
from loadtest.doctor.settings import DoctorSettings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def doctor(
    log: Annotated[
        str, typer.Argument(metavar="LOG.jsonl", help="Requests, one per line; also .gz, or - for stdin.")
    ],
    model: Annotated[
        Path | None, typer.Option(help="Directory of the model the log is for. Default: a small one.")
    ] = None,
    block_size: Annotated[int | None, typer.Option(help="Tokens per KV block. Default: 16.")] = None,
    kv_memory: Annotated[
        float | None, typer.Option(help="GiB of KV cache on one replica, for sizing. Default: 16.")
    ] = None,
    report_format: Annotated[
        str | None, typer.Option("--format", help="text, json or html. Default: text.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File of the report. Default: standard output.")] = None,
) -> None:
    """Say what keeps the prompts of a log from sharing their caches, and what each fix would win."""
    settings = load_settings(
        DoctorSettings,
        log=log,
        model=model,
        block_size=block_size,
        kv_memory=kv_memory,
        format=report_format,
        output=output,
    )
    command = shlex.join(["warmroute", *sys.argv[1:]])
    examine_log(settings, command, Console(highlight=False), Console(stderr=True, highlight=False))
