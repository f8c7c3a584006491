"""Options of commands that are settings: name, type, default and help come from the settings' own fields.

What a setting means is said once, in the docstring below it.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer
from pydantic_settings import BaseSettings

UNREAD: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}
"""For a command that leaves its arguments to `run_late`."""
HELP_NAMES: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
NO_PANELS: Mapping[str, str] = {}

Command = TypeVar("Command", bound=Callable[..., None])


def run_late(context: typer.Context, command: Callable[..., None]) -> None:
    """Run a command on the arguments that another one, of this context, has left unread.

    So what the command needs for its options is imported when it is called, and not when another one is.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=HELP_NAMES)
    app.command(help=context.command.help)(command)
    if code := app(context.args, prog_name=context.command_path, standalone_mode=False):
        raise typer.Exit(code)


def with_settings(
    settings: type[BaseSettings], names: str, panels: Mapping[str, str] = NO_PANELS
) -> Callable[[Command], Command]:
    """Let a command's ``**given`` be an option for each of these settings, None where it is not given.

    ``names`` are separated by spaces; ``panels`` holds more of them, under the headings of the help.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        chosen: list[tuple[str | None, str]] = [(None, names), *panels.items()]
        options = [_option(settings, name, panel) for panel, those in chosen for name in those.split()]
        vars(command)["__signature__"] = signature.replace(parameters=[*own, *options])
        return command

    return decorate


def _option(settings: type[BaseSettings], name: str, panel: str | None) -> inspect.Parameter:
    field = settings.model_fields[name]
    kind = next((kind for kind in _types(field.annotation) if kind in (bool, int, float, Path)), str)
    flag = f"--{name.replace('_', '-')}"
    default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
    meaning = (field.description or "").replace("`", "").replace("\n", " ")
    if field.default_factory is None and default and default is not True:
        meaning += f" Default: {default:g}." if isinstance(default, float) else f" Default: {default}."
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if default is True else flag, help=meaning, rich_help_panel=panel
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _types(annotation: Any) -> Iterator[Any]:
    """A field's type and what it may be otherwise; lists and the like are given as one text."""
    if get_origin(annotation) in (tuple, dict, frozenset):
        return
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)
