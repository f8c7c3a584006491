"""What routers cost: several side by side, in one interleaved run.

python -m loadtest.bench                      all measures, Warmroute and the peers that are installed
python -m loadtest.bench install              install the peers, in an environment of their own
python -m loadtest.bench --only json,chunks --routers warmroute

Slow readers and open streams are measured before long prompts: memory that those leave to a router would hide
what they take.
"""

import asyncio
import gc
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from loadtest.bench.contestants import DEFAULT_PEERS, DIRECT, Arena, Contestant, install, peer_names
from loadtest.bench.costs import at_rest, first_tokens, json_requests, messages, responses, stream_chunks
from loadtest.bench.load import Figures, Load, Measure
from loadtest.bench.prompts import Conversations
from loadtest.bench.results import results
from loadtest.bench.strain import cold_prompt, open_streams, slow_readers
from loadtest.harness.processes import DEFAULT_MODEL, Processes

MEASURES: dict[str, Measure] = {
    "json": json_requests,
    "chunks": stream_chunks,
    "slow": slow_readers,
    "streams": open_streams,
    "ttft": first_tokens,
    "cold": cold_prompt,
    "rest": at_rest,
    "messages": messages,
    "responses": responses,
}
ASKED_FOR = frozenset({"messages", "responses"})
"""Measured only where they are asked for: not every router has these APIs."""
WITHOUT_ROUTER = frozenset({"ttft", "cold", "streams"})
"""The measures that also say something of engines alone."""


TABLE_WIDTH = 200
LIMIT_SECONDS = 120.0
"""What one measure may take beyond its steady load."""

app = typer.Typer(pretty_exceptions_enable=False)
console = Console(highlight=False, soft_wrap=True, stderr=True)


async def measure_all(
    contestants: list[Contestant], measures: list[str], load: Load, rounds: int
) -> dict[str, list[Figures]]:
    """Figures of each round by contestant. Within a round each measure is taken of one after the other."""
    figures: dict[str, list[Figures]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in contestants:
            figures[contestant.name].append({})
        this = Load(load.conversations, load.seconds, load.seed + number)
        for measure in measures:
            for contestant in contestants if number % 2 == 0 else reversed(contestants):
                if contestant.name == DIRECT and measure not in WITHOUT_ROUTER:
                    continue
                console.print(f"round {number + 1}: {measure}, {contestant.name}", style="dim")
                try:
                    async with asyncio.timeout(load.seconds + LIMIT_SECONDS):
                        figures[contestant.name][-1].update(await MEASURES[measure](contestant, this))
                except TimeoutError:
                    raise SystemExit(f"{contestant.name} has not come to an end of {measure}") from None
                contestant.client.close()
    return figures


async def bench(
    names: list[str],
    trees: list[Path],
    measures: list[str],
    peers: Path,
    model: Path,
    rounds: int,
    seconds: float,
) -> dict[str, list[Figures]]:
    """Start everything, measure, stop everything."""
    conversations = Conversations(model)
    with Processes() as processes:
        arena = Arena(processes, model, peers, conversations)
        contestants = await arena.start(names, trees)
        gc.freeze()
        figures = await measure_all(contestants, measures, Load(conversations, seconds, 1), rounds)
        for contestant in contestants:
            await arena.check_exact(contestant, "end")
        return figures


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    only: Annotated[str, typer.Option(help="Measures, separated by commas.")] = ",".join(
        name for name in MEASURES if name not in ASKED_FOR
    ),
    routers: Annotated[str, typer.Option(help="Routers, separated by commas; otherwise all.")] = "",
    tree: Annotated[
        list[Path] | None, typer.Option(help="Another checkout with a .venv, measured too; repeatable.")
    ] = None,
    peers: Annotated[Path, typer.Option(help="Environment with smg and vllm-router.")] = DEFAULT_PEERS,
    model: Annotated[Path, typer.Option(help="Directory with a ChatML tokenizer.")] = DEFAULT_MODEL,
    rounds: int = 3,
    seconds: Annotated[float, typer.Option(help="Of each measure under steady load.")] = 5.0,
) -> None:
    """Measure routers side by side and print medians of the rounds."""
    if context.invoked_subcommand:
        return
    measures, trees, installed = only.split(","), tree or [], peer_names(peers)
    if unknown := [name for name in measures if name not in MEASURES]:
        raise SystemExit(f"unknown measure {unknown[0]!r}, choose from {', '.join(MEASURES)}")
    names = routers.split(",") if routers else ["warmroute", *(one.name for one in trees), *installed]
    if DIRECT not in names and not WITHOUT_ROUTER.isdisjoint(measures):
        names = [DIRECT, *names]
    figures = uvloop.run(bench(names, trees, measures, peers, model, rounds, seconds))
    Console(highlight=False, width=TABLE_WIDTH).print(results(figures))
    if not installed:
        console.print("No peers to compare with: python -m loadtest.bench install")


@app.command("install")
def install_peers(
    peers: Annotated[Path, typer.Option(help="Where to create the environment.")] = DEFAULT_PEERS,
) -> None:
    """Install smg and vllm-router into an environment of their own."""
    install(peers)


if __name__ == "__main__":
    app()
