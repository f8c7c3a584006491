"""How long a dead router's bookings go on counting, and how soon a living one's count.

    python -m loadtest.studies.router_death

Three routers over four simulated engines, each with open streams. First single requests through one router:
how long after it shows a booking itself do the others show it? Then that router gets ``kill -9``: when do
the others no longer count what it had booked? Both are asked as fast as they answer.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
from rich.console import Console
from rich.table import Table

from loadtest.harness.chat_answers import Reply
from loadtest.harness.chat_client import ChatClient, open_session
from loadtest.harness.measure import percentile
from loadtest.harness.processes import (
    DEFAULT_MODEL,
    MODEL_NAME,
    Processes,
    System,
    add_router,
    eventually,
    start_system,
    wait_for_routers,
)
from loadtest.studies.conversations import words

app = typer.Typer(pretty_exceptions_enable=False)

NUM_ENGINES = 4
NUM_ROUTERS = 3
ENGINE_OPTIONS = ("--step-ms", "50")
LONG_ANSWER = 4_000
"""Tokens: more than three minutes."""
PROMPT_WORDS = 100
SETTLE_SECONDS = 20.0
LOOK_SECONDS = 0.002


@dataclass(slots=True)
class Bench:
    """The system and what is needed to use it."""

    system: System
    session: aiohttp.ClientSession
    source: random.Random

    def open(self, router: str) -> asyncio.Task[Reply]:
        """Begin a stream through a router, whose answer goes on until the task is cancelled."""
        messages = [{"role": "user", "content": words(PROMPT_WORDS, self.source)}]
        request = ChatClient(self.session, router).ask(MODEL_NAME, messages, LONG_ANSWER)
        return asyncio.create_task(request)

    async def bookings(self, router: str) -> Any:
        """A router's ``/admin/bookings``."""
        async with self.session.get(f"{router}/admin/bookings") as response:
            if response.status != 200:
                raise SystemExit(f"{router}/admin/bookings answers {response.status}")
            return await response.json()

    async def first_time(self, router: str, peer: str, count: int) -> float:
        """When (`time.perf_counter`) a router counts so many requests of a peer, or of itself."""
        deadline = time.perf_counter() + SETTLE_SECONDS
        while time.perf_counter() < deadline:
            answer = await self.bookings(router)
            shown = answer["replicas"] if answer["router"] == peer else answer["peers"].get(peer, {})
            if _running(shown) == count:
                return time.perf_counter()
            await asyncio.sleep(LOOK_SECONDS)
        raise SystemExit(f"{router} does not count {count} requests of {peer} within {SETTLE_SECONDS:g} s")


async def _close(*streams: asyncio.Task[Reply]) -> None:
    """Leave, as clients do."""
    for stream in streams:
        stream.cancel()
    await asyncio.wait(streams)


def _running(replicas: Any) -> int:
    return sum(replica["running"] for replica in replicas.values())


async def propagation(bench: Bench, samples: int) -> list[float]:
    """Seconds from when a router shows a booking until each of the others does."""
    first, *others = bench.system.router_urls
    name = (await bench.bookings(first))["router"]
    delays = []
    for _ in range(samples):
        watches = [asyncio.create_task(bench.first_time(url, name, 1)) for url in (first, *others)]
        stream = bench.open(first)
        own, *seen = await asyncio.gather(*watches)
        delays += [max(0.0, when - own) for when in seen]
        await _close(stream)
        await asyncio.gather(*(bench.first_time(url, name, 0) for url in (first, *others)))
    return delays


async def death(bench: Bench, streams_per_router: int) -> list[float]:
    """Kill the first router; seconds until each of the others counts nothing of it. Puts a new one there."""
    victim, *others = bench.system.router_urls
    name = (await bench.bookings(victim))["router"]
    streams = [bench.open(url) for url in bench.system.router_urls for _ in range(streams_per_router)]
    await asyncio.gather(*(bench.first_time(url, name, streams_per_router) for url in (victim, *others)))
    killed = time.perf_counter()
    bench.system.routers[0].kill()
    seconds = [when - killed for when in await _gone(bench, others, name)]
    await _close(*streams)
    bench.system.processes.stop(bench.system.routers.pop(0))
    bench.system.router_urls.pop(0)
    add_router(bench.system)
    await wait_for_routers(bench.system, bench.session)
    await _all_quiet(bench)
    return seconds


async def _gone(bench: Bench, routers: list[str], name: str) -> list[float]:
    return list(await asyncio.gather(*(bench.first_time(url, name, 0) for url in routers)))


async def _all_quiet(bench: Bench) -> None:
    async def is_quiet() -> bool:
        answers = [await bench.bookings(url) for url in bench.system.router_urls]
        return not any(answer["open_bookings"] for answer in answers)

    await eventually(is_quiet, SETTLE_SECONDS, "no booking is left")


async def measure(
    samples: int, kills: int, streams_per_router: int, model: Path
) -> tuple[list[float], list[float]]:
    """Delays of bookings, and how long those of killed routers counted, in seconds."""
    with Processes() as processes:
        async with open_session(None) as session:
            system = await start_system(processes, session, model, NUM_ENGINES, NUM_ROUTERS, ENGINE_OPTIONS)
            bench = Bench(system, session, random.Random(1))
            delays = await propagation(bench, samples)
            deaths = [seconds for _ in range(kills) for seconds in await death(bench, streams_per_router)]
            return delays, deaths


@app.command()
def main(
    samples: Annotated[int, typer.Option(help="Single requests whose booking is followed.")] = 30,
    kills: Annotated[int, typer.Option(help="How often a router is killed.")] = 3,
    streams: Annotated[int, typer.Option(help="Open streams per router when one is killed.")] = 10,
    model: Annotated[Path, typer.Option(help="Directory with a tokenizer.")] = DEFAULT_MODEL,
) -> None:
    """Measure how soon routers count each other's bookings, and how long those of a killed one.

    A booking's delay is from when the router that made it shows it until another shows it; both are asked
    every few milliseconds, which is also the error of each figure.
    """
    delays, deaths = asyncio.run(measure(samples, kills, streams, model))
    table = Table("measure")
    for heading in ("count", "p50", "p95", "max"):
        table.add_column(heading, justify="right")
    for name, seconds in (("another router shows a booking", delays), ("a killed router counts", deaths)):
        figures = [f"{percentile(seconds, percent) * 1000:,.0f} ms" for percent in (50, 95, 100)]
        table.add_row(name, str(len(seconds)), *figures)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    app()
