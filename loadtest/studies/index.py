"""How the prefix index scales: memory, lookups, events, and its longest pause.

    python -m loadtest.studies.index --pairs 50000000 --replicas 1024

Conversations of 40 to 180 blocks each, which one to three replicas hold, stand behind an opening of 64
blocks that all replicas hold. A pair is one block on one replica. Memory is what the process grows by; times
are of one core's CPU. A pause is the longest single call of each kind, while the index fills up too. The same
seed makes the same index.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cluster.index.prefix_index import PrefixIndex
from cluster.process.collector import calm_collector
from loadtest.harness.measure import percentile

app = typer.Typer(pretty_exceptions_enable=False)

OPENING_BLOCKS = 64
OWN_BLOCKS = (40, 180)
"""Fewest and most blocks of a conversation's own history."""
MAX_HOLDERS = 3
MAX_DOCUMENT = 6_250
"""Blocks of the longest prompts: 100,000 tokens at 16 a block."""
NUM_DOCUMENTS = 32
BATCH_SIZES = (8, 64, 256)
PROMPT_BLOCKS = (250, MAX_DOCUMENT)

Keys = NDArray[np.uint64]


@dataclass(slots=True)
class Measurement:
    """What was measured. Times are seconds of CPU."""

    pairs: int
    distinct: int
    bytes_per_pair: float
    lookups: dict[int, list[float]] = field(default_factory=dict)
    """Seconds of each lookup, by the number of the prompt's blocks."""
    rates: dict[int, float] = field(default_factory=dict)
    """Blocks stored or removed in a second, by the number in a batch."""
    pauses: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Longest call of each kind."""


class Filled:
    """An index that is as full as in a busy fleet, and the content of some prompts."""

    def __init__(self, pairs: int, num_replicas: int, seed: int, clock: Callable[[], float]) -> None:
        self.source = np.random.default_rng(seed)
        self.clock = clock
        self.num_replicas = num_replicas
        self.pauses: dict[str, float] = defaultdict(float)
        self.opening = self.fresh(OPENING_BLOCKS)
        self.documents = [self.fresh(MAX_DOCUMENT - OPENING_BLOCKS) for _ in range(NUM_DOCUMENTS)]
        self.histories: list[Keys] = []
        before = resident_bytes()
        self.index = PrefixIndex()
        self.pairs = 0
        for _ in range(num_replicas):
            self.store(self.index.add_replica(), self.opening)
        for document in self.documents:
            self.spread(document)
        while self.pairs < pairs:
            history = self.fresh(int(self.source.integers(*OWN_BLOCKS, endpoint=True)))
            self.spread(history)
            if len(self.histories) < 1_000:
                self.histories.append(history)
        self.bytes = resident_bytes() - before

    def fresh(self, count: int) -> Keys:
        """Keys that nobody holds."""
        return self.source.integers(0, 1 << 64, count, dtype=np.uint64)

    def spread(self, history: Keys) -> None:
        """Have a history, or the older part of it, held by a few replicas."""
        for turns_ago in range(int(self.source.integers(1, MAX_HOLDERS, endpoint=True))):
            self.store(
                int(self.source.integers(self.num_replicas)), history[: len(history) // (1 + turns_ago)]
            )

    def store(self, slot: int, keys: Keys) -> None:
        """One batch."""
        self.timed("store", self.index.store, slot, keys)
        self.pairs += len(keys)

    def timed(self, name: str, call: Callable[..., object], *arguments: object) -> float:
        """Seconds of one call."""
        started = self.clock()
        call(*arguments)
        seconds = self.clock() - started
        self.pauses[name] = max(self.pauses[name], seconds)
        return seconds

    def prompt(self, num_blocks: int) -> Keys:
        """A prompt that goes on with something new after what some replicas hold."""
        contents = self.documents if num_blocks == MAX_DOCUMENT else self.histories
        content = contents[int(self.source.integers(len(contents)))]
        known = np.concatenate([self.opening, content])[:num_blocks]
        return np.concatenate([known, self.fresh(num_blocks - len(known))])

    def event_rate(self, batch_size: int, num_batches: int) -> float:
        """Blocks a second, when each batch stores new ones on some replica and an older batch goes."""
        batches = [self.fresh(batch_size) for _ in range(num_batches)]
        slots = self.source.integers(0, self.num_replicas, num_batches).tolist()
        started = self.clock()
        for number, (slot, batch) in enumerate(zip(slots, batches, strict=True)):
            self.index.store(slot, batch)
            if number >= num_batches // 2:
                older = number - num_batches // 2
                self.index.remove(slots[older], batches[older])
        seconds = self.clock() - started
        return batch_size * (num_batches + num_batches - num_batches // 2) / seconds


def resident_bytes() -> int:
    """Memory that this process has now."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def measure(filled: Filled, lookups: int, events: int) -> Measurement:
    """Look prompts up, let blocks come and go, and let replicas restart and leave."""
    result = Measurement(filled.pairs, len(filled.index), filled.bytes / filled.pairs, pauses=filled.pauses)
    for num_blocks in PROMPT_BLOCKS:
        prompts = (filled.prompt(num_blocks) for _ in range(lookups))
        result.lookups[num_blocks] = [
            filled.timed("lookup", filled.index.matched_blocks, keys) for keys in prompts
        ]
    for batch_size in BATCH_SIZES:
        result.rates[batch_size] = filled.event_rate(batch_size, max(2, events // batch_size))
    filled.timed("clear", filled.index.clear, 0)
    filled.timed("restart", filled.index.restart_replica, 1 % filled.num_replicas)
    filled.timed("remove replica", filled.index.remove_replica, 2 % filled.num_replicas)
    filled.timed("add replica", filled.index.add_replica)
    return result


@app.command()
def main(
    pairs: Annotated[int, typer.Option(help="Blocks on replicas.")] = 50_000_000,
    replicas: int = 1_024,
    lookups: Annotated[int, typer.Option(help="Prompts of each length.")] = 2_000,
    events: Annotated[int, typer.Option(help="Blocks stored with each size of batch.")] = 1_000_000,
    seed: int = 1,
) -> None:
    """Print what was measured."""
    calm_collector()
    result = measure(Filled(pairs, replicas, seed, time.thread_time), lookups, events)
    table = Table(title=f"{replicas} replicas", title_justify="left", show_header=False)
    table.add_row("pairs", f"{result.pairs:,}")
    table.add_row("distinct blocks", f"{result.distinct:,}")
    table.add_row("bytes per pair", f"{result.bytes_per_pair:.1f}")
    for num_blocks, seconds in result.lookups.items():
        p50, p99 = (1e6 * percentile(seconds, percent) for percent in (50, 99))
        table.add_row(f"lookup of {num_blocks:,} blocks, p50 / p99", f"{p50:.0f} / {p99:.0f} µs")
    for batch_size, rate in result.rates.items():
        table.add_row(f"blocks/s in batches of {batch_size}", f"{rate / 1e6:.2f} million")
    for name, seconds_at_most in result.pauses.items():
        table.add_row(f"longest {name}", f"{1e3 * seconds_at_most:.2f} ms")
    Console(width=120).print(table)


if __name__ == "__main__":
    app()
