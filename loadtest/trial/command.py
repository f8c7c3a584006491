"""``warmroute loadtest``: starts or finds a fleet, measures, shows and writes down what follows."""

import os
import platform
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import date
from pathlib import Path

import aiohttp
import uvloop
from rich.console import Console
from rich.markup import escape

from cluster.process.progress import step
from loadtest.harness.processes import Processes
from loadtest.options import make_directory
from loadtest.scenarios.scenario import Scenario
from loadtest.trial.conduct import Conductor
from loadtest.trial.fleet import Fleet, open_fleet, stop_gently
from loadtest.trial.records import Trial
from loadtest.trial.report import Findings, find, write_report
from loadtest.trial.settings import TrialSettings

MAX_CONNECTIONS = 4096


def loadtest(settings: TrialSettings, command: str, console: Console, progress: Console) -> None:
    """Do all that is asked for. ``command`` is what the user typed, for the report."""
    settings.arms()
    scenario = settings.read_scenario()  # both complain before anything is started
    directory = make_directory(settings.output or Path(f"loadtest-{scenario.name}"))
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with Processes() as processes:
            try:
                trial = uvloop.run(_measure(settings, scenario, processes, command, progress))
            finally:
                stop_gently(processes)
    except KeyboardInterrupt:
        progress.print("\nStopped; everything that was started here has ended.")
        raise SystemExit(130) from None
    findings = find(
        trial,
        settings.price(),
        settings.conversations_per_second(scenario),
        settings.ttft_goal,
        settings.requests_per_day,
        0 if settings.router_url or settings.a else settings.replicas,
    )
    with progress.status("Drawing the report"):
        path = write_report(trial, findings, directory)
    _show(findings, console)
    console.print(f"\nReport: {escape(str(path))}", soft_wrap=True)


async def _measure(
    settings: TrialSettings, scenario: Scenario, processes: Processes, command: str, console: Console
) -> Trial:
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=4)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        with step(console, "Fleet") as current:
            fleet = await stack.enter_async_context(open_fleet(settings, session, processes, current))
            current.done(f"{fleet.model} at {', '.join(sorted({c.url for c in fleet.clients.values()}))}")
        probes, rounds, sweep = await Conductor(settings, scenario, fleet, console).run()
    arms = [arm.name for arm in fleet.arms]
    return Trial(
        title=f"{scenario.name}: {arms[-1]} against {' and '.join(arms[:-1])}",
        command=command,
        arms=arms,
        probes=probes,
        rounds=rounds,
        sweep=sweep,
        difference=settings.difference,
        facts={**_facts(settings, scenario, fleet), "Rounds": f"{len(rounds) // len(arms)} of each arm"},
    )


def _facts(settings: TrialSettings, scenario: Scenario, fleet: Fleet) -> Mapping[str, str]:
    if settings.a:
        what = ", ".join(f"{arm.name}: {arm.url}" for arm in fleet.arms)
    elif settings.router_url:
        what = f"router at {settings.router_url}"
    else:
        what = f"{settings.replicas} {'simulated engines' if settings.engine == 'sim' else 'vLLM replicas'}"
        if settings.prefill_rate:
            what += f", {settings.prefill_rate:g} prompt tokens/s each"
    traffic = (
        f"{settings.users} users"
        if settings.users
        else f"{settings.conversations_per_second(scenario):g} new conversations/s"
    )
    return {
        "Fleet": what,
        "Model": fleet.model,
        "Scenario": scenario.description,
        "Traffic": f"{traffic}, for {settings.seconds:g} s in each round",
        "Think times": "the scenario's" if settings.think_scale == 1 else f"{settings.think_scale:g} times",
        "Seed": str(settings.seed),
        "Machine": f"load generator on {os.cpu_count()} cores, {platform.machine()}",
        "Date": date.today().isoformat(),
    }


def _show(findings: Findings, console: Console) -> None:
    for verdict in findings.verdicts:
        console.print(f"\n[bold]{escape(verdict.headline)}[/bold]")
        for line in verdict.lines:
            console.print(f"  {line.label}: {escape(line.sentence)}")
    for sentence in (*findings.sentences, *findings.warnings):
        console.print(escape(sentence))
