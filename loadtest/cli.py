"""The commands that measure: ``warmroute loadtest | replay | doctor``.

Part of the composition root, as `cluster.cli`. Their options are known only once they are run, since what
they need may not be installed: arguments are handed over unread.
"""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from cluster.errors import StartUpError
from cluster.flags import UNREAD, run_late, with_settings
from cluster.settings import load_settings

FLEET, TRAFFIC, MONEY = "What is compared", "Traffic", "Cost model"


PANELS = {
    FLEET: "control policy a b router_url engine replicas blocks prefill_rate model model_name api_key "
    "admin_token",
    TRAFFIC: "scenario rate users seconds rounds difference max_rounds sweep ttft_goal "
    "think_scale probes seed timeout",
    MONEY: "gpu_hour_price gpus_per_replica currency requests_per_day",
}


def loadtest(context: typer.Context) -> None:
    """Compare Warmroute with another policy or router on identical traffic, and report what it is worth."""
    with _packages("loadtest", "loadtest"):
        from loadtest.trial.command import loadtest as run_loadtest
        from loadtest.trial.settings import TrialSettings

    @with_settings(TrialSettings, "output", PANELS)
    def run(**given: Any) -> None:
        run_loadtest(load_settings(TrialSettings, **given), *_surroundings())

    run_late(context, run)


def replay(context: typer.Context) -> None:
    """Replay traffic through policies on a simulated fleet, and report which serves it best."""
    with _packages("replay", "loadtest"):
        from loadtest.replay.command import replay as run_replay
        from loadtest.replay.settings import ReplaySettings

    @with_settings(
        ReplaySettings,
        "trace workload scenario policies replicas routers load length_scale block_size tokens_per_id "
        "time_unit first last profile blocks event_lag gossip_lag slow changes join_at death_at capacity "
        "seeds output jobs",
    )
    def run(**given: Any) -> None:
        run_replay(load_settings(ReplaySettings, **given), *_surroundings())

    run_late(context, run)


def doctor(context: typer.Context) -> None:
    """Say what keeps the prompts of a log from sharing their caches, and what each fix would win."""
    with _packages("doctor", "loadtest"):
        from loadtest.doctor.command import doctor as examine_log
        from loadtest.doctor.settings import DoctorSettings

    @with_settings(DoctorSettings, "model block_size kv_memory format output")
    def run(
        log: Annotated[
            str, typer.Argument(metavar="LOG.jsonl", help="Requests, one per line; also .gz, or - for stdin.")
        ],
        **given: Any,
    ) -> None:
        examine_log(load_settings(DoctorSettings, log=log, **given), *_surroundings())

    run_late(context, run)


@contextmanager
def _packages(command: str, extras: str) -> Iterator[None]:
    """Say what to install where a command's packages are missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StartUpError(
            f"{command} needs {error.name}, which the extra {extras} brings: install warmroute[{extras}]"
        ) from error


def _surroundings() -> tuple[str, Console, Console]:
    """The command line as it was typed, and where answers and progress go."""
    command = shlex.join(["warmroute", *sys.argv[1:]])
    return command, Console(highlight=False), Console(stderr=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (loadtest, replay, doctor):
        app.command(**UNREAD)(command)
