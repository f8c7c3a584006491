"""One ordinary client that asks all the time, with prompts that nobody has sent before."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.hostile.system import CHAT, ORDINARY_ADDRESS, Hostile

EVERY_SECONDS = 0.1
LIMIT_SECONDS = 60
WORDS = "ordinary words of a user "


class Steady:
    """What it was answered."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        """By status, or by what was wrong with the answer."""
        self.slowest = 0.0
        """Seconds that an answer took."""

    @property
    def failed(self) -> int:
        """Requests that were not answered as they should."""
        return self.answers.total() - self.answers["200"]

    def __str__(self) -> str:
        return f"{dict(self.answers)}, the slowest after {self.slowest:.1f} s"

    async def ask(self, session: aiohttp.ClientSession, url: str, number: int) -> None:
        """One request; every second answer is a stream."""
        stream = bool(number % 2)
        content = f"{number} {time.monotonic()} {WORDS * 20}"
        body = {"model": "tiny", "max_tokens": 2, "stream": stream, "messages": [user(content)]}
        began = time.monotonic()
        try:
            async with session.post(url + CHAT, json=body) as response:
                text = await response.text()
                is_whole = response.status != 200 or ("[DONE]" in text if stream else "usage" in text)
                answer = str(response.status) if is_whole else "cut"
        except (aiohttp.ClientError, TimeoutError) as error:
            answer = type(error).__name__
        self.answers[answer] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)


def user(content: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": content}


@asynccontextmanager
async def ordinary_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client at the ordinary user's address."""
    connector = aiohttp.TCPConnector(local_addr=(ORDINARY_ADDRESS, 0))
    timeout = aiohttp.ClientTimeout(total=LIMIT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


@asynccontextmanager
async def asking(hostile: Hostile) -> AsyncIterator[Steady]:
    """Asks while the context is open; the last request is waited for."""
    steady, stop = Steady(), asyncio.Event()

    async def ask_all() -> None:
        async with ordinary_session() as session:
            number = 0
            while not stop.is_set():
                await steady.ask(session, hostile.url, number)
                number += 1
                await asyncio.sleep(EVERY_SECONDS)

    task = asyncio.create_task(ask_all())
    try:
        yield steady
    finally:
        stop.set()
        await task
