"""What unusual traffic does: thousands of open streams, a very long prompt, readers that hardly read."""

import asyncio
import json
import socket
import time

from loadtest.bench.client import Reply, head_of
from loadtest.bench.contestants import Contestant
from loadtest.bench.load import CHUNK_INTERVAL_US, Figures, Load
from loadtest.bench.prompts import NOBODYS, WORDS_PER_SENTENCE, Tag, request
from loadtest.harness.measure import percentile

OPEN_STREAMS = 2000
OPENED_PER_SECOND = 250
OPEN_CHUNKS = 16
"""One a second: the last stream is opened after eight seconds, the first one ends after fifteen."""
ALL_OPEN_FROM, ALL_OPEN_UNTIL = 10.0, 15.0
"""Seconds from the first stream's beginning; the opening itself is not what is measured."""

COLD_TOKENS = 100_000
COLD_WORDS = COLD_TOKENS * WORDS_PER_SENTENCE // (WORDS_PER_SENTENCE + 1)
"""A word is one token, and so is the full stop after each sentence."""
COLD_PROMPTS = 3
COLD_PAUSE_SECONDS = 1.5
AFTER_SECONDS = 0.05
"""So long after its answer a cold prompt is still held responsible."""

SLOW_READERS = 8
SLOW_CHUNKS, SLOW_PADDING = 10_000, 880
"""Ten million bytes in events of about a thousand."""
SLOW_BYTES, SLOW_INTERVAL = 10_000, 0.1
"""100 kB/s."""
RECEIVE_BUFFER = 64 * 1024
"""Bytes that the kernel holds for such a reader."""


async def open_streams(contestant: Contestant, load: Load) -> Figures:
    """Streams of one chunk a second: how many are served, their memory, how late chunks are."""
    run = load.run_name(contestant, "open")
    await load.streams(contestant, f"{run} warm-up", 1)
    before, begin = contestant.resident_bytes(), time.monotonic()

    async def one(number: int) -> Reply:
        await asyncio.sleep(begin + number / OPENED_PER_SECOND - time.monotonic())
        return await load.stream(contestant, Tag(run, number, 0, OPEN_CHUNKS, 1_000_000))

    tasks = [asyncio.create_task(one(number)) for number in range(OPEN_STREAMS)]
    await asyncio.sleep((ALL_OPEN_FROM + ALL_OPEN_UNTIL) / 2)
    grown = contestant.resident_bytes() - before
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    replies = [answer for answer in answers if isinstance(answer, Reply) and answer.chunks == OPEN_CHUNKS]
    delays = [
        delay * 1000
        for reply in replies
        for moment, delay in reply.delays
        if ALL_OPEN_FROM <= moment - begin <= ALL_OPEN_UNTIL
    ]
    return {
        f"{OPEN_STREAMS:,} streams: served": len(replies),
        f"{OPEN_STREAMS:,} streams: memory of each, KiB": grown / OPEN_STREAMS / 1024,
        f"{OPEN_STREAMS:,} streams: chunk delay p99, ms": percentile(delays, 99) if delays else float("nan"),
    }


async def cold_prompt(contestant: Contestant, load: Load) -> Figures:
    """How late the chunks of other streams are while prompts of 100,000 tokens arrive, and otherwise."""
    run = load.run_name(contestant, "cold")
    tag = Tag(run, NOBODYS, 0, 1)
    bodies = [_cold_body(load, tag, number) for number in range(COLD_PROMPTS)]
    await load.streams(contestant, f"{run} warm-up", 20)
    seconds = COLD_PAUSE_SECONDS * (COLD_PROMPTS + 1)
    others = asyncio.create_task(load.streams(contestant, run, round(seconds / CHUNK_INTERVAL_US * 1e6)))
    windows = []
    for body in bodies:
        await asyncio.sleep(COLD_PAUSE_SECONDS)
        reply = await contestant.client.request(body)
        windows.append((reply.sent, time.monotonic()))
    delays = [arrival for reply in await others for arrival in reply.delays]
    with_it = [
        d * 1000 for at, d in delays if any(first <= at <= last + AFTER_SECONDS for first, last in windows)
    ]
    without = [
        d * 1000
        for at, d in delays
        if not any(first <= at <= last + AFTER_SECONDS for first, last in windows)
    ]
    p99, p99_with_it = percentile(without, 99), percentile(with_it, 99)
    return {
        "64 streams: chunk delay p99, ms": p99,
        "cold prompt: others' p99 rises by, ms": p99_with_it - p99,
        "cold prompt: answered within, ms": max(last - first for first, last in windows) * 1000,
    }


def _cold_body(load: Load, tag: Tag, number: int) -> bytes:
    text = load.conversations.text(COLD_WORDS, f"{tag.run} {number}")
    return request(tag, json.dumps([{"role": "user", "content": text}]).encode())


async def slow_readers(contestant: Contestant, load: Load) -> Figures:
    """Memory that a router needs for a client that reads 10 MB at 100 kB/s, without the kernel's."""
    run = load.run_name(contestant, "slow")
    body = request(Tag(run, NOBODYS, 0, SLOW_CHUNKS, 0, SLOW_PADDING), b'[{"role":"user","content":"go"}]')
    await load.streams(contestant, f"{run} warm-up", 20)
    before = peak = contestant.resident_bytes()
    readers = [asyncio.create_task(_read_slowly(contestant.port, body)) for _ in range(SLOW_READERS)]
    for _ in range(round(load.seconds / SLOW_INTERVAL)):
        await asyncio.sleep(SLOW_INTERVAL)
        peak = max(peak, contestant.resident_bytes())
    for reader in readers:
        reader.cancel()
    ended = await asyncio.gather(*readers, return_exceptions=True)
    if failed := [end for end in ended if not isinstance(end, asyncio.CancelledError)]:
        raise SystemExit(f"{contestant.name}: a slow reader was cut off: {failed[0]}")
    return {"slow reader of 10 MB: memory, KiB": (peak - before) / SLOW_READERS / 1024}


async def _read_slowly(port: int, body: bytes) -> None:
    """Returns only when the router closes the connection."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, head_of(f"127.0.0.1:{port}".encode(), len(body)) + body)
        while True:
            if not await loop.sock_recv(client, SLOW_BYTES):
                return
            await asyncio.sleep(SLOW_INTERVAL)
