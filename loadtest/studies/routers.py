"""Do N routers decide as one would? The same conversations through 1, 2, 4 and 8 routers.

    python -m loadtest.studies.routers --counts 1,2,4,8

Each user holds conversations one after the other and thinks before every turn. Conversations share a few
system prompts. What a user says, how long it thinks and which router its turn goes to are drawn in advance,
the same for every run with the same seed; answers are the engines' own. So what one router knows is of use
only if the others know it too.

For each count Redis, engines, agent and routers are new. The orders of the rounds alternate. Engines are
slow enough that they, and not this machine's cores, are what requests wait for; a run in which that was not
so is flagged.
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from rich.console import Console
from rich.table import Table

from loadtest.harness.chat_answers import Reply, RequestFailedError
from loadtest.harness.chat_client import ChatClient, open_session
from loadtest.harness.measure import percentile
from loadtest.harness.processes import DEFAULT_MODEL, MODEL_NAME, CpuMeter, Processes, start_system
from loadtest.studies.conversations import words

SYSTEM_WORDS = 400
QUESTION_WORDS = (60, 240)
TURNS = (2, 6)


@dataclass(frozen=True, slots=True)
class ScriptedTurn:
    """What a user does next."""

    think_seconds: float
    question: str
    draw: float
    """Which of the routers it goes to, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class ScriptedConversation:
    """One conversation, without the answers."""

    system: str
    turns: tuple[ScriptedTurn, ...]


Script = tuple[ScriptedConversation, ...]
"""All conversations of one user."""


def write_scripts(
    num_users: int, turns_per_user: int, num_systems: int, think_seconds: float, seed: int
) -> list[Script]:
    """Scripts of all users. All have as many turns, so that they end at about the same time."""
    source = random.Random(seed)
    systems = [f"Product {number}. " + words(SYSTEM_WORDS, source) for number in range(num_systems)]

    def turn() -> ScriptedTurn:
        question = words(source.randint(*QUESTION_WORDS), source)
        return ScriptedTurn(source.expovariate(1 / think_seconds), question, source.random())

    def script() -> Script:
        conversations, left = [], turns_per_user
        while left:
            count = min(left, source.randint(*TURNS))
            turns = tuple(turn() for _ in range(count))
            conversations.append(ScriptedConversation(source.choice(systems), turns))
            left -= count
        return tuple(conversations)

    return [script() for _ in range(num_users)]


@dataclass(slots=True)
class Played:
    """What became of all turns."""

    turns: list[Reply] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


async def play(
    scripts: Sequence[Script], session: aiohttp.ClientSession, routers: Sequence[str], max_tokens: int
) -> Played:
    """Hold all conversations, each turn through the router that it drew."""
    played = Played()
    clients = [ChatClient(session, url) for url in routers]
    await asyncio.gather(*(_play_user(script, clients, max_tokens, played) for script in scripts))
    return played


async def _play_user(script: Script, clients: Sequence[ChatClient], max_tokens: int, played: Played) -> None:
    for conversation in script:
        messages = [{"role": "system", "content": conversation.system}]
        for turn in conversation.turns:
            await asyncio.sleep(turn.think_seconds)
            messages.append({"role": "user", "content": turn.question})
            client = clients[int(turn.draw * len(clients))]
            try:
                answer = await client.ask(MODEL_NAME, messages, max_tokens)
            except RequestFailedError as error:
                played.errors[str(error)] += 1
                break
            played.turns.append(answer)
            messages.append({"role": "assistant", "content": answer.text})


app = typer.Typer(pretty_exceptions_enable=False)

MAX_TOKENS = 40
SYSTEMS = 6
BUSY_MACHINE = 0.85
BUSY_ROUTER = 0.7
"""Shares of the cores, and of one core, above which a run says more about this machine than about routers."""
REQUEST_SECONDS = 300.0
TABLE_WIDTH = 160


@dataclass(frozen=True, slots=True)
class Load:
    """The conversations, and the engines that serve them."""

    scripts: list[Script]
    num_engines: int
    num_blocks: int
    prefill_rate: float

    def engine_options(self) -> list[str]:
        """Options of ``python -m workers.sim.engine``."""
        return [
            *("--num-blocks", str(self.num_blocks), "--prefill-rate", str(self.prefill_rate)),
            *("--step-ms", "20", "--max-num-batched-tokens", "128"),
        ]


@dataclass(frozen=True, slots=True)
class Run:
    """One play of the trace through some number of routers."""

    num_routers: int
    played: Played
    seconds: float
    engines_busy: float
    """Share of the time that engines spent on prompts, on average."""
    machine_busy: float
    busiest_router: float
    """Share of one core."""

    def figures(self) -> dict[str, float]:
        """What is compared."""
        turns = self.played.turns
        ttfts = [turn.first_token * 1000 for turn in turns]
        return {
            "hit rate, %": 100 * _cached(self.played) / sum(turn.prompt_tokens for turn in turns),
            "TTFT mean, ms": statistics.fmean(ttfts),
            "TTFT p50, ms": percentile(ttfts, 50),
            "TTFT p95, ms": percentile(ttfts, 95),
            "TTFT p99, ms": percentile(ttfts, 99),
        }

    @property
    def flag(self) -> str:
        """What makes this run doubtful; "" is nothing."""
        doubts = []
        if self.machine_busy > BUSY_MACHINE:
            doubts.append(f"the machine was {self.machine_busy:.0%} busy")
        if self.busiest_router > BUSY_ROUTER:
            doubts.append(f"a router used {self.busiest_router:.0%} of a core")
        if self.played.errors:
            doubts.append(f"{self.played.errors.total()} failed: {dict(self.played.errors)}")
        return "; ".join(doubts)


def _cached(played: Played) -> int:
    return sum(turn.cached_tokens or 0 for turn in played.turns)


async def run_once(load: Load, num_routers: int, policy: str, model: Path) -> Run:
    """Start everything anew, play the trace, stop everything."""
    with Processes() as processes:
        async with open_session(REQUEST_SECONDS) as session:
            options = ("--policy", policy)
            system = await start_system(
                processes, session, model, load.num_engines, num_routers, load.engine_options(), options
            )
            meter, started = CpuMeter(processes.ids()), time.perf_counter()
            played = await play(load.scripts, session, system.router_urls, MAX_TOKENS)
            seconds, shares = time.perf_counter() - started, meter.shares()
    if not played.turns:
        raise SystemExit(f"no turn was answered: {dict(played.errors)}")
    computed = sum(turn.prompt_tokens for turn in played.turns) - _cached(played)
    return Run(
        num_routers,
        played,
        seconds,
        computed / load.prefill_rate / load.num_engines / seconds,
        shares["machine"],
        max(share for name, share in shares.items() if name.startswith("router")),
    )


async def run_all(
    load: Load, counts: Sequence[int], rounds: int, policy: str, model: Path, console: Console
) -> list[Run]:
    """All rounds, each printed when it is over."""
    runs = []
    for number in range(rounds):
        for count in reversed(counts) if number % 2 else counts:
            run = await run_once(load, count, policy, model)
            runs.append(run)
            figures = ", ".join(f"{name} {value:.1f}" for name, value in run.figures().items())
            console.print(
                f"round {number + 1}, {count} router(s): {len(run.played.turns)} turns in "
                f"{run.seconds:.0f} s, {figures}; engines {run.engines_busy:.0%} busy with prompts, machine "
                f"{run.machine_busy:.0%}, busiest router {run.busiest_router:.0%} of a core"
                + (f" [red]DOUBTFUL: {run.flag}[/red]" if run.flag else "")
            )
    return runs


def results(runs: Sequence[Run]) -> Table:
    """Per number of routers: each figure's mean and range over rounds, and below it how much it differs from
    the smallest number of routers in the same round.
    """
    counts = sorted({run.num_routers for run in runs})
    figures = {c: [run.figures() for run in runs if run.num_routers == c] for c in counts}
    names = list(runs[0].figures())
    table = Table("routers", show_lines=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for count in counts:
        table.add_row(str(count), *(_cell(name, figures[count], figures[counts[0]]) for name in names))
    return table


def _cell(name: str, rounds: Sequence[Mapping[str, float]], reference: Sequence[Mapping[str, float]]) -> str:
    values = [figures[name] for figures in rounds]
    text = f"{statistics.fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
    if rounds is reference:
        return text
    ratios = [value / other[name] - 1 for value, other in zip(values, reference, strict=True)]
    return f"{text}\n{statistics.fmean(ratios):+.1%} ({min(ratios):+.1%} to {max(ratios):+.1%})"


@app.command()
def main(
    counts: Annotated[str, typer.Option(help="Numbers of routers, separated by commas.")] = "1,2,4,8",
    rounds: int = 3,
    policy: Annotated[str, typer.Option(help="Passed to every router.")] = "warm",
    engines: int = 8,
    blocks: Annotated[int, typer.Option(help="KV blocks of each engine, 16 tokens each.")] = 800,
    prefill_rate: Annotated[
        float, typer.Option(help="Prompt tokens a second that an engine computes.")
    ] = 500,
    users: Annotated[int, typer.Option(help="Conversations held at a time.")] = 72,
    turns: Annotated[int, typer.Option(help="Turns of each user, in conversations of two to six.")] = 12,
    think_seconds: Annotated[float, typer.Option(help="Mean pause before a turn.")] = 2.0,
    seed: int = 1,
    model: Annotated[Path, typer.Option(help="Directory with a tokenizer.")] = DEFAULT_MODEL,
) -> None:
    """Compare delivered hit rate and TTFT of the same conversations through different numbers of routers.

    The hit rate is the engines' own: cached tokens of all prompt tokens. Prints every run, then per number
    of routers mean, spread, and the difference from the smallest number.
    """
    console = Console(highlight=False, soft_wrap=True, width=TABLE_WIDTH)
    scripts = write_scripts(users, turns, SYSTEMS, think_seconds, seed)
    load = Load(scripts, engines, blocks, prefill_rate)
    numbers = [int(count) for count in counts.split(",")]
    runs = asyncio.run(run_all(load, numbers, rounds, policy, model, console))
    console.print(results(runs))
    raise SystemExit(1 if any(run.played.errors for run in runs) else 0)


if __name__ == "__main__":
    app()
