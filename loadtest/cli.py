"""The commands that measure: ``warmroute loadtest | replay | doctor``.

Part of the composition root, as `cluster.cli`. Their options are known only once they are run, since what
they need may not be installed: arguments are handed over unread.
"""

from collections.abc import Callable
from importlib import import_module

import typer

from cluster.errors import StartUpError
from loadtest.options import command_line

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for name, module, extras, summary in (
        (
            "loadtest", "loadtest.trial.command", "loadtest",
            "Compare Warmroute with another policy or router on identical traffic, and report what it is "
            "worth.",
        ),
        (
            "replay", "loadtest.replay.command", "loadtest",
            "Replay traffic through policies on a simulated fleet, and report which serves it best.",
        ),
        (
            "doctor", "loadtest.doctor.command", "loadtest,router",
            "Say what keeps the prompts of a log from sharing their caches, and what each fix would win.",
        ),
    ):  # fmt: skip
        command = _command(name, module, extras, summary)
        app.command(name, help=summary, add_help_option=False, context_settings=PASS_ON)(command)


def _command(name: str, module: str, extras: str, summary: str) -> Callable[[typer.Context], None]:
    def pass_on(context: typer.Context) -> None:
        try:
            settings, run, panels = import_module(module).COMMAND
        except ModuleNotFoundError as error:
            raise StartUpError(f"{name} needs {error.name}: pip install 'warmroute[{extras}]'") from error
        command_line(settings, run, panels, summary)(context.args, prog_name=f"warmroute {name}")

    return pass_on
