"""What the measures share: the load they draw on, and paced streams."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loadtest.bench.client import Reply
from loadtest.bench.contestants import Contestant
from loadtest.bench.prompts import Conversations, Tag

STREAMS = 64
CHUNK_INTERVAL_US = 20_000

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Load:
    """Conversations, and how long to hold them."""

    conversations: Conversations
    seconds: float
    """How long measures of steady load last."""
    seed: int

    def run_name(self, contestant: Contestant, measure: str) -> str:
        """A run has its own conversations, so that no router finds what an earlier run has left."""
        return f"{contestant.name} {measure} {self.seed}"

    async def stream(self, contestant: Contestant, tag: Tag) -> Reply:
        """One stream from its first to its last chunk. Raises `RequestFailedError`."""
        return await contestant.client.request(self.conversations.body(tag))

    async def streams(self, contestant: Contestant, run: str, chunks: int) -> list[Reply]:
        """`STREAMS` streams at a time, whose chunks do not come at the same moments."""

        async def one(number: int) -> Reply:
            await asyncio.sleep(number * CHUNK_INTERVAL_US / STREAMS / 1e6)
            return await self.stream(contestant, Tag(run, number, 0, chunks, CHUNK_INTERVAL_US))

        replies = await asyncio.gather(*(one(number) for number in range(STREAMS)))
        if lost := sum(chunks - reply.chunks for reply in replies):
            raise SystemExit(f"{contestant.name} lost {lost} chunks of {STREAMS * chunks}")
        return replies


Measure = Callable[[Contestant, Load], Awaitable[Figures]]
"""Figures of one router by name, with their units."""
