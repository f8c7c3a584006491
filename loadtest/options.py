"""Command lines that follow from settings: every field is an option, described where it is declared."""

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic_settings import BaseSettings
from rich.console import Console

from cluster.errors import StartUpError
from cluster.settings import load_settings

S = TypeVar("S", bound=BaseSettings)

NO_PANELS: Mapping[str, str] = MappingProxyType({})
PLAIN = (bool, int, float, Path)
"""Types that the command line checks. Everything else is a text, which the settings read."""


def command_line(
    settings: type[S],
    run: Callable[[S, str, Console, Console], None],
    panels: Mapping[str, str],
    summary: str,
) -> typer.Typer:
    """A command whose options are the fields of settings. A field that must be given is its argument.

    ``run`` gets the settings, what the user typed, and consoles for results and for progress. Fields from one
    in ``panels`` on, up to the next, are shown in that panel of the help.
    """

    def command(**options: Any) -> None:
        typed = shlex.join(["warmroute", *sys.argv[1:]])
        run(
            load_settings(settings, **options),
            typed,
            Console(highlight=False),
            Console(stderr=True, highlight=False),
        )

    parameters, panel = [], ""
    for name, field in settings.model_fields.items():
        panel = panels.get(name, panel)
        kind: Any = _plain(field.annotation)
        if field.is_required():
            option = typer.Argument(..., help=field.description, metavar=field.title)
        else:
            # What is off needs no flag to switch it off.
            names = (f"--{name}",) if field.default is False else ()
            option = typer.Option(None, *names, help=field.description, rich_help_panel=panel or None)
            kind = kind | None
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=summary)(command)
    return app


def _plain(annotation: Any) -> Any:
    """The type of an option on the command line."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return next(_plain(one) for one in get_args(annotation) if one is not NoneType)
    return annotation if annotation in PLAIN else str


def parts_of(value: object) -> object:
    """The parts of a text that are separated by commas; what is no text, as it is."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def make_directory(directory: Path) -> Path:
    """Create the directory of a report. Raises `StartUpError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartUpError(f"--output {directory}: {error.strerror}") from error
    return directory
