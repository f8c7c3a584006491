"""Does the simulator tell the truth? One workload through real processes and through `simulate`, compared.

    python -m loadtest.studies.validate_simulator --workload agents --rate 6 --seconds 180

Redis, agent, router and engines are real, and talk over HTTP; only the engines' steps are slept instead of
computed, with the same profile as in the simulator. Engines are slow enough that they, and not this machine's
cores, are what requests wait for. What HTTP adds to a request is measured before, on idle engines, and given
to the simulator as the way over the network.

Prompts are sent as token ids, a block of them for each key. The router then knows no opening, and takes
the first 512 tokens for the conversation: the simulator is given exactly these conversation keys, and no
opening. A policy that needs openings, as the default does, can be compared, but is not at its best.

Replicas have other names in the simulator, so the ring breaks ties differently; the simulation is repeated
with several placements on the ring, and their spread shows how much of a difference is chance.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cluster.prompts.tokenizer import PromptTokenizer
from loadtest.harness.chat_client import open_session
from loadtest.harness.processes import DEFAULT_MODEL, CpuMeter, Processes, start_system
from loadtest.harness.workload_player import Place, Played, Player
from loadtest.simulator.plan import Plan
from loadtest.simulator.profiles import EngineProfile
from loadtest.simulator.results import Run
from loadtest.simulator.system import simulate
from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.workloads import catalog
from loadtest.workloads.agents import Agents
from loadtest.workloads.text import mix
from loadtest.workloads.trace import read_trace
from policies.catalog import POLICIES

app = typer.Typer(pretty_exceptions_enable=False)

ENGINE = EngineProfile(
    step_seconds=0.020,
    prefill_seconds=1 / 2_000,
    decode_seconds=0.0002,
    num_blocks=3_000,
    max_batched_tokens=512,
)
"""Slow, so that a few requests a second are a load."""
NUM_PROBES = 15
REQUEST_SECONDS = 300.0
TOLERANCE = 0.10
BUSY_MACHINE = 0.85
LAGGING_SECONDS = 0.010
"""At the 99th percentile, above which a run says more about this machine than about the simulator."""

# A lane of the usual agents can name an answer of another lane before it exists. In the simulator that is the
# same text nevertheless; a real answer is not known in advance.
WORKLOADS = {**catalog.WORKLOADS, "agents": Agents(parallel_share=0.0).build}

Seconds = NDArray[np.float64]


def engine_options(profile: EngineProfile) -> list[str]:
    """Options of ``python -m workers.sim.engine``, whose steps do not depend on the context."""
    if profile.prefill_context_seconds or profile.decode_context_seconds:
        raise ValueError("the engines that run in real time know no cost of context")
    return [
        *("--step-ms", str(1000 * profile.step_seconds)),
        *("--prefill-rate", str(1 / profile.prefill_seconds)),
        *("--decode-ms", str(1000 * profile.decode_seconds)),
        *("--num-blocks", str(profile.num_blocks)),
        *("--max-num-batched-tokens", str(profile.max_batched_tokens)),
        *("--max-num-seqs", str(profile.max_num_seqs)),
    ]


def computing_seconds(profile: EngineProfile, prompt_tokens: int) -> float:
    """Time to the first token of an uncached prompt on an idle engine."""
    steps = -(-prompt_tokens // profile.max_batched_tokens)
    return steps * profile.step_seconds + prompt_tokens * profile.prefill_seconds


async def network_seconds(player: Player, profile: EngineProfile, workload: Workload) -> float:
    """One way between router and engine: half of what HTTP adds to the first token on idle engines."""
    lengths = [turn.prompt_tokens for session in workload.sessions for turn in session.turns]
    added = []
    for quantile in np.linspace(0.1, 0.9, NUM_PROBES):
        prompt_tokens = int(np.quantile(lengths, quantile))
        added.append(await player.probe(prompt_tokens) - computing_seconds(profile, prompt_tokens))
    return max(0.0, float(np.median(added)) / 2)


def cut(workload: Workload, rate: float, seconds: float) -> Workload:
    """The sessions that start in the first seconds, after bringing turns to ``rate`` per second."""
    usual_rate = workload.num_turns / workload.sessions[-1].start
    faster = workload.faster(rate / usual_rate)
    return replace(faster, sessions=tuple(one for one in faster.sessions if one.start < seconds))


def as_routed(workload: Workload, keys: Mapping[Place, int], placement: int) -> Workload:
    """The workload as the router saw it. Another placement moves all conversations on the ring."""

    def turns(number: int, session: Session) -> tuple[Turn, ...]:
        return tuple(
            replace(one, conversation_key=mix(keys[number, index], placement), opening_tokens=0)
            for index, one in enumerate(session.turns)
        )

    sessions = (replace(one, turns=turns(number, one)) for number, one in enumerate(workload.sessions))
    return replace(workload, sessions=tuple(sessions))


def figures(ttfts: Seconds, hit_rate: float) -> dict[str, float]:
    """What is compared: TTFT in milliseconds, and the share of prompt tokens found in caches."""
    percentiles = {f"TTFT p{p}, ms": 1000 * float(np.percentile(ttfts, p)) for p in (50, 90, 95, 99)}
    return {"TTFT mean, ms": 1000 * float(ttfts.mean()), **percentiles, "hit rate, %": 100 * hit_rate}


def kolmogorov_smirnov(one: Seconds, other: Seconds) -> float:
    """The greatest distance between two empirical distribution functions, from 0 to 1."""
    values = np.concatenate([one, other])
    shares = (np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other))
    return float(np.abs(np.subtract(*shares)).max())


def comparison(real: Mapping[str, float], simulated: Sequence[Mapping[str, float]]) -> tuple[Table, bool]:
    """Every figure beside the mean and range of the simulations; whether all are within the tolerance."""
    table, all_good = Table("figure", "over HTTP", "simulated (range)", "simulated / HTTP"), True
    for name, value in real.items():
        values = [one[name] for one in simulated]
        mean = sum(values) / len(values)
        good = abs(mean / value - 1) <= TOLERANCE
        all_good &= good
        spread = f"{mean:.1f} ({min(values):.1f} to {max(values):.1f})"
        table.add_row(name, f"{value:.1f}", spread, f"{mean / value:.3f}{'' if good else ' !'}")
    return table, all_good


async def play_for_real(
    workload: Workload, engines: int, policy: str, model: Path, console: Console
) -> tuple[Played, float]:
    """Start everything, play, stop everything. Returns the seconds of the network's one way, too."""
    with Processes() as processes:
        async with open_session(REQUEST_SECONDS) as session:
            system = await start_system(
                processes, session, model, engines, 1, engine_options(ENGINE), ("--policy", policy)
            )
            player = Player(session, system.router_urls[0], PromptTokenizer(model))
            one_way = await network_seconds(player, ENGINE, workload)
            meter, started = CpuMeter(processes.ids()), time.perf_counter()
            played = await player.play(workload)
            seconds, shares = time.perf_counter() - started, meter.shares()
    lag = float(np.percentile(played.lags, 99))
    busy = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    console.print(
        f"{len(played.ttfts)} turns in {seconds:.0f} s; HTTP adds {2000 * one_way:.1f} ms to each; "
        f"client's lag p50 {1000 * float(np.median(played.lags)):.1f}, p99 {1000 * lag:.1f} ms; busy: {busy}"
    )
    if played.errors:
        raise SystemExit(f"{played.errors.total()} failed: {dict(played.errors)}")
    if shares["machine"] > BUSY_MACHINE or lag > LAGGING_SECONDS:
        console.print("[red]DOUBTFUL: this machine was too busy to keep time[/red]")
    return played, one_way


@app.command()
def main(
    workload: Annotated[str, typer.Option(help=f"One of {', '.join(WORKLOADS)}.")] = "agents",
    trace: Annotated[Path | None, typer.Option(help="Instead: a trace, its lengths divided by 8.")] = None,
    rate: Annotated[float, typer.Option(help="Turns per second.")] = 6.0,
    seconds: Annotated[float, typer.Option(help="For as long sessions start.")] = 180.0,
    engines: int = 8,
    policy: str = "lmetric",
    placements: Annotated[int, typer.Option(help="Simulations, each with another placement.")] = 9,
    seed: Annotated[int, typer.Option(help="Of the workload.")] = 1,
    model: Annotated[Path, typer.Option(help="Directory with a tokenizer.")] = DEFAULT_MODEL,
) -> None:
    """Compare TTFT and hit rate; exit with 1 when a figure differs by more than 10%."""
    console = Console(highlight=False, soft_wrap=True)
    whole = read_trace(trace, length_scale=1 / 8, seed=seed) if trace else WORKLOADS[workload](seed)
    part = cut(whole, rate, seconds)
    played, one_way = asyncio.run(play_for_real(part, engines, policy, model, console))
    plan = Plan(replicas=engines, profile=ENGINE, network_seconds=one_way)
    runs: list[Run] = [
        simulate(as_routed(part, played.conversation_keys, number), policy, POLICIES[policy], plan)
        for number in range(placements)
    ]
    ttfts = np.array(played.ttfts)
    real = figures(ttfts, played.cached_tokens / played.prompt_tokens)
    table, good = comparison(real, [figures(run.ttft(), run.hit_rate) for run in runs])
    console.print(table)
    distances = [kolmogorov_smirnov(ttfts, run.ttft()) for run in runs]
    among = [kolmogorov_smirnov(runs[0].ttft(), run.ttft()) for run in runs[1:]]
    console.print(
        f"Kolmogorov-Smirnov distance {np.mean(distances):.3f} (among simulations {np.mean(among):.3f}); "
        f"engines {runs[0].utilisation:.0%} busy"
    )
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    app()
