"""What tokenising costs a router, in full and piece by piece: ``python -m loadtest.studies.tokenising``.

CPU time of rendering, tokenising and block keys for the turns of conversations, both ways alternately in one
process and on the same texts; how late an event loop is while a long prompt is tokenised beside it; and the
memory that a conversation leaves behind. Texts are English: the documentation that comes with Python.
"""

import asyncio
import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.index.block_table import BlockKeys
from cluster.prompts.prompt_cache import PromptCache
from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.block_keys import Namespace, block_keys

BLOCK_SIZE = 16
ROOT = Namespace("tokenizer", BLOCK_SIZE).root()
TENANTS = [Namespace("tokenizer", BLOCK_SIZE, cache_salt=str(n)).root() for n in range(5)]
"""They share nothing but words: the same conversation is new to each, so it can be measured several times."""
CONVERSATIONS = {"300-word system prompt, 4 turns": (4, 300, 75), "30,000 tokens, 20 turns": (20, 300, 1000)}
"""Turns, words of the system prompt, words of a turn; a third of them is the user's."""
SHOWN_TURNS = (1, 2, 3, 4, 5, 20)
COLD_WORDS = 70_000
REPEATS = 5
TICK_SECONDS = 0.001

Chat = dict[str, Any]
app = typer.Typer(pretty_exceptions_enable=False)


class Texts:
    """Stretches of the text in Python's documentation, from random places."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        lines = "\n".join(topics.values()).splitlines()
        self._words = " \n".join(line.strip() for line in lines if line.strip()).split(" ")

    def take(self, count: int) -> str:
        """So many words."""
        start = self._dice.randrange(len(self._words))
        words = self._words * (1 + (start + count) // len(self._words))
        return " ".join(words[start : start + count])


def requests_of(texts: Texts, turns: int, system_words: int, turn_words: int) -> Iterator[Chat]:
    """What a client sends in the turns of a conversation."""
    history = [{"role": "system", "content": texts.take(system_words)}]
    for _ in range(turns):
        history.append({"role": "user", "content": texts.take(turn_words // 3)})
        yield {"messages": list(history)}
        history.append({"role": "assistant", "content": texts.take(turn_words - turn_words // 3)})


def in_full(tokenizer: PromptTokenizer, request: Chat) -> list[int]:
    """Everything anew."""
    return block_keys(ROOT, tokenizer.chat(request).token_ids, BLOCK_SIZE)


def by_pieces(
    tokenizer: PromptTokenizer, request: Chat, root: bytes = ROOT, pause: Callable[[], None] | None = None
) -> BlockKeys:
    """What is new, as the router does it."""
    return tokenizer.keyed_chat(request, root, BLOCK_SIZE).finish(pause).keys


def pause() -> None:
    """Pause as the router's threads do."""
    time.sleep(0.0001)


def cpu_seconds(work: Callable[..., object], *args: Any) -> float:
    """CPU time that the process spends on it."""
    start = time.process_time()
    work(*args)
    return time.process_time() - start


def turns_table(tokenizer: PromptTokenizer, texts: Texts) -> Table:
    """CPU time per turn: medians over conversations, each the best of several tries, since others disturb."""
    table = Table("conversation", "turn", "tokens", "in full", "by pieces", "ratio")
    for name, shape in CONVERSATIONS.items():
        samples: dict[int, list[tuple[float, float, float]]] = {}
        for _ in range(REPEATS):
            for turn, request in enumerate(requests_of(texts, *shape), start=1):
                new = [cpu_seconds(by_pieces, tokenizer, request, root) for root in TENANTS]
                if turn in SHOWN_TURNS:
                    full = [cpu_seconds(in_full, tokenizer, request) for _ in TENANTS]
                    size = len(tokenizer.chat(request).token_ids)
                    samples.setdefault(turn, []).append((min(full), min(new), size))
        for turn, found in samples.items():
            full_time, new_time, tokens = (statistics.median(column) for column in zip(*found, strict=True))
            table.add_row(
                name, f"{turn}", f"{tokens:,.0f}", f"{full_time * 1e6:,.0f} us", f"{new_time * 1e6:,.0f} us",
                f"1/{full_time / new_time:.1f}",
            )  # fmt: skip
    return table


async def lateness(work: Callable[[], object] | None, seconds: float = 1.0) -> list[float]:
    """How late a task that sleeps a millisecond at a time is woken, in seconds, while work runs in a thread.

    Without work, for so many seconds.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work) if work else asyncio.sleep(seconds))
    times = []
    while not running.done():
        times.append(time.perf_counter())
        await asyncio.sleep(TICK_SECONDS)
    await running
    return [later - earlier - TICK_SECONDS for earlier, later in pairwise(times)]


def cold_table(model: Path, texts: Texts) -> Table:
    """An event loop beside a thread that tokenises a long prompt of which nothing is known."""
    table = Table("event loop beside", "tokens", "took", "woken late: p50", "p99", "max")
    tokenizer = PromptTokenizer(model)
    requests = [{"messages": [{"role": "user", "content": texts.take(COLD_WORDS)}]} for _ in range(4)]
    works: dict[str, Callable[[], object] | None] = {
        "nothing": None,
        "pieces, no word known": lambda: by_pieces(tokenizer, requests[0], pause=pause),
        "pieces": lambda: by_pieces(tokenizer, requests[1], pause=pause),
        "in full": lambda: in_full(tokenizer, requests[2]),
    }
    size = len(tokenizer.chat(requests[3]).token_ids)
    for name, work in works.items():
        start = time.perf_counter()
        late = sorted(asyncio.run(lateness(work)))
        took = time.perf_counter() - start
        shown = (late[len(late) // 2], late[len(late) * 99 // 100], late[-1])
        table.add_row(
            name, f"{size:,}" if work else "", f"{took * 1e3:,.0f} ms", *(f"{t * 1e3:.1f} ms" for t in shown)
        )
    return table


def memory_table(tokenizer: PromptTokenizer, texts: Texts) -> Table:
    """Memory per conversation, as the cache counts it and as Python does."""
    table = Table("conversation", "counted", "measured", "per token")
    for name, shape in CONVERSATIONS.items():
        conversations = [list(requests_of(texts, *shape)) for _ in range(20)]
        for requests in conversations:
            by_pieces(tokenizer, requests[-1])  # learns the words
        tokenizer.cache = PromptCache()
        gc.collect()
        tracemalloc.start()
        num_tokens = 0
        for requests in conversations:
            for request in requests:
                prompt = tokenizer.keyed_chat(request, ROOT, BLOCK_SIZE).finish()
            num_tokens += prompt.num_tokens
        gc.collect()
        measured = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        counted = tokenizer.cache.num_bytes
        table.add_row(
            name,
            f"{counted / len(conversations) / 1024:.1f} KiB",
            f"{measured / len(conversations) / 1024:.1f} KiB",
            f"{counted / num_tokens:.2f} bytes",
        )
    return table


@app.command()
def main(
    model: Annotated[Path, typer.Option(help="Directory with a tokenizer and a chat template.")] = Path(
        ".warmroute/models/SmolLM2-135M-Instruct"
    ),
    seed: int = 1,
) -> None:
    """Measure on one model's tokenizer."""
    console, texts, tokenizer = Console(), Texts(seed), PromptTokenizer(model)
    console.print(turns_table(tokenizer, texts))
    console.print(cold_table(model, texts))
    console.print(memory_table(tokenizer, texts))


if __name__ == "__main__":
    app()
