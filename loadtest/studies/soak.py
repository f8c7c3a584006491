"""Does anything grow? Steady load with eviction pressure for as long as you like, and everybody's memory.

    python -m loadtest.studies.soak --minutes 60 --rate 10

Four small simulated engines whose caches never hold all prompts, their agent, Redis and two routers. The
resident memory of every process is sampled; after a warm-up (the first fifth) a straight line is fitted to
each.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
from rich.console import Console
from rich.table import Table

from loadtest.harness.measure import percentile, slope
from loadtest.harness.processes import (
    DEFAULT_MODEL,
    MODEL_NAME,
    Processes,
    System,
    get_json,
    resident_mib,
    start_system,
)
from loadtest.studies import steady

app = typer.Typer(pretty_exceptions_enable=False)

NUM_ENGINES = 4
NUM_ROUTERS = 2
BATCHES_KEPT = 500
"""Batches that engines and Redis keep: few, so that these buffers are soon full."""
ENGINE_OPTIONS = (
    *("--num-blocks", "600", "--max-model-len", "4096"),
    *("--kv-buffer-steps", str(BATCHES_KEPT)),
)
PROMPT_TOKENS = 600
PROMPTS = 100
"""Prompts per router, of some 40 blocks each: in all three times what the caches hold."""
MAX_TOKENS = 16
WARM_UP = 0.2
"""Share of the time that counts for no slope."""
MIN_SAMPLES = 3
QUIET_SECONDS = 3.0
"""The wait after the last answer: expectations of routers have ended by then."""


@dataclass(slots=True)
class Samples:
    """Resident memory of every process over time."""

    times: list[float] = field(default_factory=list)
    mib: dict[str, list[float]] = field(default_factory=dict)

    def add(self, now: float, ids: Mapping[str, int]) -> None:
        """Sample all of them."""
        self.times.append(now)
        for name, number in ids.items():
            self.mib.setdefault(name, []).append(resident_mib(number))

    def after_warm_up(self) -> tuple[list[float], dict[str, list[float]]]:
        """Hours and memory of the samples that count."""
        first = round(len(self.times) * WARM_UP)
        hours = [seconds / 3600 for seconds in self.times[first:]]
        return hours, {name: values[first:] for name, values in self.mib.items()}


@dataclass(slots=True)
class Outcome:
    """Everything that was measured."""

    samples: Samples
    loads: Sequence[steady.Outcome]
    routers: list[Any]
    """``/admin/replicas`` of each router at the end."""

    @property
    def num_errors(self) -> int:
        """Requests that failed."""
        return sum(load.errors.total() for load in self.loads)


async def _sample(samples: Samples, ids: Mapping[str, int], every: float, seconds: float) -> None:
    begin = time.monotonic()
    while (now := time.monotonic() - begin) < seconds:
        samples.add(now, ids)
        await asyncio.sleep(every)


async def measure(minutes: float, rate: float, every: float, model: Path) -> Outcome:
    """Load both routers alike and sample all processes."""
    seconds, samples = minutes * 60, Samples()
    with Processes() as processes:
        async with aiohttp.ClientSession() as session:
            system = await start_system(
                *(processes, session, model, NUM_ENGINES, NUM_ROUTERS, ENGINE_OPTIONS),
                log_length=BATCHES_KEPT,
            )
            *loads, _ = await asyncio.gather(
                *(
                    _load(url, number, rate / NUM_ROUTERS, seconds)
                    for number, url in enumerate(system.router_urls)
                ),
                _sample(samples, processes.ids(), every, seconds),
            )
            await asyncio.sleep(QUIET_SECONDS)
            return Outcome(samples, [load for load in loads if load], await _routers(system, session))


async def _load(router: str, seed: int, rate: float, seconds: float) -> steady.Outcome:
    """Each router has prompts of its own."""
    return await steady.run(router, MODEL_NAME, rate, seconds, PROMPT_TOKENS, PROMPTS, MAX_TOKENS, seed)


async def _routers(system: System, session: aiohttp.ClientSession) -> list[Any]:
    return [await get_json(session, f"{url}/admin/replicas") for url in system.router_urls]


def results(samples: Samples) -> Table:
    """Memory at the end and its slope, per process."""
    table = Table("process")
    for heading in ("MiB at first", "MiB after warm-up", "MiB at last", "MiB per hour", "standard error"):
        table.add_column(heading, justify="right")
    hours, values = samples.after_warm_up()
    for name, mib in values.items():
        rise, error = slope(hours, mib) if len(hours) >= MIN_SAMPLES else (float("nan"), float("nan"))
        figures = (samples.mib[name][0], mib[0], mib[-1])
        table.add_row(name, *(f"{value:.1f}" for value in figures), f"{rise:+.2f}", f"{error:.2f}")
    return table


@app.command()
def main(
    minutes: float = 60.0,
    rate: Annotated[float, typer.Option(help="Requests a second, of both routers together.")] = 10.0,
    sample_seconds: float = 10.0,
    model: Annotated[Path, typer.Option(help="Directory with a tokenizer.")] = DEFAULT_MODEL,
) -> None:
    """Measure whether any process's memory grows under steady load with eviction, in MiB per hour.

    Prints per process a least-squares slope and its standard error, then blocks in the routers' indexes,
    bookings still open, and errors. Exits with 1 when a request failed or a booking is left.
    """
    outcome = asyncio.run(measure(minutes, rate, sample_seconds, model))
    console = Console(highlight=False, soft_wrap=True)
    console.print(results(outcome.samples))
    ttfts = [ttft for load in outcome.loads for ttft in load.ttfts]
    if ttfts:
        console.print(
            f"{len(ttfts)} answered; TTFT p50 {percentile(ttfts, 50) * 1000:.0f} ms, "
            f"p99 {percentile(ttfts, 99) * 1000:.0f} ms"
        )
    left = 0
    for number, router in enumerate(outcome.routers, 1):
        evicted = sum(replica["evicted_blocks"] for replica in router["replicas"])
        left += router["open_bookings"]
        console.print(
            f"router {number}: {router['index_blocks']} blocks in its index, "
            f"{router['open_bookings']} bookings open, {evicted} blocks evicted by engines so far, "
            f"{router['resynchronisations']} replicas read anew"
        )
    errors = [dict(load.errors) for load in outcome.loads if load.errors]
    console.print(f"errors: {errors or 'none'}")
    raise SystemExit(1 if outcome.num_errors or left else 0)


if __name__ == "__main__":
    app()
