"""Options that are made from settings: as their fields say, and None where nothing is given."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from typer.testing import CliRunner

from cluster.flags import UNREAD, run_late, with_settings


class Settings(BaseSettings):
    """Fields of all kinds that options are made of."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    text_here: str = "word"
    """What is ``said``
    at once."""
    size: Annotated[float, Field(gt=0)] | None = None
    count: int = Field(3, ge=0)
    choice: Literal["one", "two"] = "one"
    place: Path | None = None
    many: Annotated[tuple[float, ...], NoDecode] = ()
    wanted: bool = False
    kept: bool = True
    unnamed: int = 0


@pytest.fixture
def run():
    """Runs a command with these arguments, made when it is called; returns what it printed and was given."""
    given = {}
    app = typer.Typer()

    @app.callback()
    def _group():
        """So that the command has a name."""

    @app.command(**UNREAD)
    def late(context: typer.Context) -> None:
        """Says what it does."""

        @with_settings(Settings, "text_here size count choice place many wanted kept", {"Own": "unnamed"})
        def command(required: Annotated[str, typer.Option()], **options: Any) -> None:
            given.update(options, required=required)

        run_late(context, command)

    def run(*arguments):
        result = CliRunner().invoke(app, ["late", *arguments], env={"COLUMNS": "200"})
        return result.exit_code, result.output, given

    return run


def test_options_have_the_types_of_settings(run):
    """Numbers and paths are converted; what is checked further is text, which the settings check."""
    arguments = (
        "--text-here=x",
        "--size",
        "2",
        "--count=4",
        "--choice",
        "three",
        "--place",
        "/a",
        "--many",
        "1,2",
    )
    code, _, given = run(*arguments, "--wanted", "--no-kept", "--unnamed", "7", "--required", "r")
    assert code == 0
    assert given == {
        "text_here": "x", "size": 2.0, "count": 4, "choice": "three", "place": Path("/a"), "many": "1,2",
        "wanted": True, "kept": False, "unnamed": 7, "required": "r",
    }  # fmt: skip


def test_option_that_is_not_given_is_none(run):
    """The environment and the default then decide."""
    _, _, given = run("--required", "r")
    assert {value for name, value in given.items() if name != "required"} == {None}


def test_help_is_what_the_settings_say(run):
    """Docstrings and defaults of the fields, under the headings that were asked for."""
    code, text, _ = run("--help")
    assert code == 0
    for part in (
        "Says what it does.",
        "What is said at once. Default: word.",
        "Default: 3.",
        "Own",
        "--no-kept",
    ):
        assert part in text
    assert "--no-wanted" not in text


def test_wrong_use_is_a_usage_error(run):
    """Of unknown options, of missing ones, and of values of another type."""
    for arguments in ((), ("--required", "r", "--other", "1"), ("--required", "r", "--count", "x")):
        assert run(*arguments)[0] == 2
