"""What ordinary traffic costs: CPU of a request and of a chunk, time to the first token, memory."""

import asyncio
import itertools
import random
import time

from loadtest.bench.client import CHAT, Reply
from loadtest.bench.contestants import Contestant
from loadtest.bench.load import CHUNK_INTERVAL_US, STREAMS, Figures, Load
from loadtest.bench.prompts import NUM_TURNS, Tag
from loadtest.harness.measure import percentile

RESPONSES = "/v1/responses"
CLIENTS = 32
WARM_UP_SECONDS = 1.0
SHORT_STREAM, LONG_STREAM = 20, 220
"""Chunks; the difference in cost between such streams is that of the chunks alone."""
SETTLE_SECONDS = 0.3
"""The time after the last answer until the router has done its accounts."""
IDLE_SECONDS = 2.0
TTFT_CHUNKS = 50
"""Chunks of each stream while TTFT is measured: one second of them."""


async def json_requests(
    contestant: Contestant, load: Load, path: str = CHAT, name: str = "JSON request"
) -> Figures:
    """Conversations of four turns with JSON answers, as fast as they are answered (closed loop)."""
    run, numbers, answered, stopping = load.run_name(contestant, name), itertools.count(), 0, False

    async def converse() -> None:
        nonlocal answered
        while True:
            number = next(numbers)
            for turn in range(NUM_TURNS):
                if stopping:
                    return
                body = load.conversations.body(Tag(run, number, turn))
                if path == RESPONSES:
                    body = body.replace(b'"messages":', b'"input":', 1)
                await contestant.client.request(body, path)
                answered += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(converse())
        await asyncio.sleep(WARM_UP_SECONDS)
        before, cpu, started = answered, contestant.cpu_seconds(), time.monotonic()
        await asyncio.sleep(load.seconds)
        requests, seconds = answered - before, time.monotonic() - started
        used = contestant.cpu_seconds() - cpu
        stopping = True
    if path != CHAT:
        return {f"CPU per {name}, us": used / requests * 1e6}
    return {
        "CPU per JSON request, us": used / requests * 1e6,
        "requests/s by that CPU": requests / used,
        "requests/s seen": requests / seconds,
        "core used by the router, %": used / seconds * 100,
    }


async def messages(contestant: Contestant, load: Load) -> Figures:
    """The same conversations by Anthropic's API; the bodies are the same, too."""
    return await json_requests(contestant, load, "/v1/messages", "message")


async def responses(contestant: Contestant, load: Load) -> Figures:
    """The same conversations by the Responses API, with the whole history in each request."""
    return await json_requests(contestant, load, RESPONSES, "response")


async def stream_chunks(contestant: Contestant, load: Load) -> Figures:
    """CPU of a chunk: the slope between short and long streams of the same kind of requests."""
    costs = []
    for chunks in (SHORT_STREAM, LONG_STREAM):
        run = load.run_name(contestant, f"{chunks} chunks")
        await load.streams(contestant, f"{run} warm-up", SHORT_STREAM)
        cpu = contestant.cpu_seconds()
        await load.streams(contestant, run, chunks)
        await asyncio.sleep(SETTLE_SECONDS)
        costs.append(contestant.cpu_seconds() - cpu)
    return {"CPU per chunk, us": (costs[1] - costs[0]) / (LONG_STREAM - SHORT_STREAM) / STREAMS * 1e6}


async def first_tokens(contestant: Contestant, load: Load) -> Figures:
    """TTFT while about `STREAMS` streams are open: a fixed rate of requests at random moments (open loop)."""
    run, source = load.run_name(contestant, "ttft"), random.Random(load.seed)
    rate = STREAMS / (TTFT_CHUNKS * CHUNK_INTERVAL_US / 1e6)
    await load.streams(contestant, f"{run} warm-up", SHORT_STREAM)
    tasks: list[asyncio.Task[Reply]] = []
    due = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(round(rate * load.seconds)):
            due += source.expovariate(rate)
            await asyncio.sleep(due - time.monotonic())
            tag = Tag(run, number // NUM_TURNS, number % NUM_TURNS, TTFT_CHUNKS, CHUNK_INTERVAL_US)
            tasks.append(group.create_task(load.stream(contestant, tag)))
    ttfts = [task.result().ttft * 1000 for task in tasks]
    return {"TTFT p50, ms": percentile(ttfts, 50), "TTFT p99, ms": percentile(ttfts, 99)}


async def at_rest(contestant: Contestant, load: Load) -> Figures:
    """Memory after what has been measured before, and CPU when nobody asks anything."""
    await asyncio.sleep(SETTLE_SECONDS)
    cpu, started = contestant.cpu_seconds(), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    used = (contestant.cpu_seconds() - cpu) / (time.monotonic() - started)
    return {
        "resident memory, MiB": contestant.resident_bytes() / 2**20,
        "CPU at rest, % of a core": used * 100,
    }
