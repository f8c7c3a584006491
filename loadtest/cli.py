"""The commands that measure: ``warmroute loadtest | replay | doctor``. Options, and nothing else.

Part of the composition root, as `cluster.cli`.
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.errors import StartUpError
from cluster.settings import load_settings

FLEET, TRAFFIC, MONEY = "What is compared", "Traffic", "Cost model"


def loadtest(
    control: Annotated[
        str | None,
        typer.Option(
            help="Policies to compare with, separated by commas. Default: round-robin.", rich_help_panel=FLEET
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Ours. Default: warm.", rich_help_panel=FLEET)] = None,
    a: Annotated[
        str | None,
        typer.Option(
            "--a", help="URL or NAME=URL of the control, instead of policies.", rich_help_panel=FLEET
        ),
    ] = None,
    b: Annotated[
        str | None, typer.Option("--b", help="URL or NAME=URL to compare with it.", rich_help_panel=FLEET)
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="A running Warmroute router, which is switched from policy to policy. "
            "Default: a fleet is started.",
            rich_help_panel=FLEET,
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Of the fleet that is started: sim or vllm.", rich_help_panel=FLEET)
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Its number of engines. Default: 4.", rich_help_panel=FLEET)
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(help="KV blocks of each engine.", rich_help_panel=FLEET)
    ] = None,
    prefill_rate: Annotated[
        float | None,
        typer.Option(help="Prompt tokens per second of simulated engines.", rich_help_panel=FLEET),
    ] = None,
    model_directory: Annotated[
        Path | None, typer.Option(help="The model of the fleet that is started.", rich_help_panel=FLEET)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The name that requests give.", rich_help_panel=FLEET)
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="Sent as bearer token.", rich_help_panel=FLEET)] = None,
    admin_token: Annotated[
        str | None, typer.Option(help="Opens the admin API of the router.", rich_help_panel=FLEET)
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(help="A name or a .toml file. Default: support-bot.", rich_help_panel=TRAFFIC),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="New conversations per second. Default: the scenario's.", rich_help_panel=TRAFFIC),
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(
            help="Instead of a rate: so many users, one conversation after the other.",
            rich_help_panel=TRAFFIC,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="For as long conversations begin in each round. Default: 30.", rich_help_panel=TRAFFIC
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of each arm. Default: 4.", rich_help_panel=TRAFFIC)
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help="Saturation sweep: times the rate, such as 0.5,1,1.5,2.", rich_help_panel=TRAFFIC),
    ] = None,
    ttft_goal: Annotated[
        float | None,
        typer.Option(
            help="Seconds that p95 of the TTFT may take in the sweep. Default: 1.", rich_help_panel=TRAFFIC
        ),
    ] = None,
    think_scale: Annotated[
        float | None, typer.Option(help="Times the scenario's think times.", rich_help_panel=TRAFFIC)
    ] = None,
    probes: Annotated[
        int | None,
        typer.Option(help="Prompts on the idle fleet, cold and warm. Default: 24.", rich_help_panel=TRAFFIC),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draws the conversations. Default: 1.", rich_help_panel=TRAFFIC)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds per request. Default: 600.", rich_help_panel=TRAFFIC)
    ] = None,
    gpu_hour_price: Annotated[
        float | None, typer.Option(help="Price of a GPU for an hour. Default: 2.5.", rich_help_panel=MONEY)
    ] = None,
    gpus_per_replica: Annotated[float | None, typer.Option(help="Default: 1.", rich_help_panel=MONEY)] = None,
    currency: Annotated[str | None, typer.Option(help="Default: USD.", rich_help_panel=MONEY)] = None,
    requests_per_day: Annotated[
        float | None, typer.Option(help="Your volume. Default: this test's rate.", rich_help_panel=MONEY)
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Directory of the report. Default: loadtest-SCENARIO.")
    ] = None,
) -> None:
    """Compare Warmroute with another policy or router on identical traffic, and report what it is worth."""
    options = dict(locals())
    try:
        from loadtest.trial.command import loadtest as run_loadtest
        from loadtest.trial.settings import TrialSettings
    except ModuleNotFoundError as error:
        raise StartUpError(f"loadtest needs {error.name}: pip install 'warmroute[loadtest]'") from error

    settings = load_settings(TrialSettings, **options)
    command = shlex.join(["warmroute", *sys.argv[1:]])
    run_loadtest(settings, command, Console(highlight=False), Console(stderr=True, highlight=False))


def replay(
    trace: Annotated[
        Path | None, typer.Option(help="Recorded requests, JSON lines in Mooncake's format.")
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            help="Instead of a trace, generated requests: chat, agents, rag, ... (a wrong name lists all)."
        ),
    ] = None,
    scenario: Annotated[
        str | None, typer.Option(help="Instead of a trace: a scenario's name, or its .toml file.")
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="Names separated by commas, or all. Default: ours and five others.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="Number of engines. Default: 8.")] = None,
    routers: Annotated[int | None, typer.Option(help="Number of routers. Default: 1.")] = None,
    load: Annotated[
        str | None,
        typer.Option(
            help="Times the workload's own rate, such as 1,1.5,2. Default: from light to near saturation."
        ),
    ] = None,
    length_scale: Annotated[
        float | None, typer.Option(help="Shorten a trace's prompts and answers, such as 0.125.")
    ] = None,
    first: Annotated[int | None, typer.Option(help="Of a trace: the first request, from 0.")] = None,
    last: Annotated[int | None, typer.Option(help="Of a trace: the request to stop before.")] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Of a trace: tokens per KV block. Default: 16.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="How fast engines are. Default: sim.")] = None,
    blocks: Annotated[int | None, typer.Option(help="KV blocks per replica. Default: the profile's.")] = None,
    event_lag: Annotated[
        float | None, typer.Option(help="Milliseconds until routers know of cache events. Default: 3.")
    ] = None,
    gossip_lag: Annotated[
        float | None,
        typer.Option(help="Milliseconds until routers know of each other's bookings. Default: 5."),
    ] = None,
    slow: Annotated[
        str | None, typer.Option(help="Slow replicas, such as 0:2 if number 0 needs twice as long.")
    ] = None,
    changes: Annotated[
        bool | None, typer.Option(help="Replay with a join and a death, too, at one load. Default: yes.")
    ] = None,
    join_at: Annotated[
        float | None, typer.Option(help="When a replica joins, in seconds. Default: after a third.")
    ] = None,
    death_at: Annotated[
        float | None, typer.Option(help="When a replica dies, in seconds. Default: after two thirds.")
    ] = None,
    capacity: Annotated[
        bool | None, typer.Option("--capacity", help="Compare hit rates with smaller and larger caches, too.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Repeat everything with so many seeds; show medians. Default: 1.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Directory of the report. Default: replay-NAME.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes. Default: one per CPU core.")] = None,
) -> None:
    """Replay traffic through policies on a simulated fleet, and report which serves it best."""
    try:
        from loadtest.replay.command import replay as run_replay
        from loadtest.replay.settings import ReplaySettings
    except ModuleNotFoundError as error:
        raise StartUpError(f"replay needs {error.name}: pip install 'warmroute[loadtest]'") from error

    settings = load_settings(
        ReplaySettings,
        trace=trace,
        workload=workload,
        scenario=scenario,
        policies=policies,
        replicas=replicas,
        routers=routers,
        load=load,
        length_scale=length_scale,
        first=first,
        last=last,
        block_size=block_size,
        profile=profile,
        blocks=blocks,
        event_lag=event_lag,
        gossip_lag=gossip_lag,
        slow=slow,
        changes=changes,
        join_at=join_at,
        death_at=death_at,
        capacity=capacity,
        seeds=seeds,
        output=output,
        jobs=jobs,
    )
    command = shlex.join(["warmroute", *sys.argv[1:]])
    run_replay(settings, command, Console(highlight=False), Console(stderr=True, highlight=False))


def doctor(context: typer.Context) -> None:
    """Say what keeps the prompts of a log from sharing their caches, and what each fix would win."""
    try:
        from loadtest.doctor.cli import app as doctor_app
    except ModuleNotFoundError as error:
        raise StartUpError(f"doctor needs {error.name}: pip install 'warmroute[loadtest]'") from error
    doctor_app(context.args, prog_name="warmroute doctor")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(loadtest)
    app.command()(replay)
    app.command(
        add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
    )(doctor)
