"""What every measurement here shares: one streamed chat turn, timed, percentiles, and a slope."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from loadtest.harness.chat_answers import Chunk, usage_in, whole_text


@dataclass(frozen=True, slots=True)
class Turn:
    """One streamed answer as its client saw it."""

    replica: str
    """From the response header; empty when the server is not a Warmroute router."""
    text: str
    ttft: float
    """Seconds from sending the request to the first event of the answer."""
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that the engine says it had in its cache."""
    completion_tokens: int


async def chat_turn(
    client: AsyncOpenAI, model: str, messages: list[ChatCompletionMessageParam], max_tokens: int
) -> Turn:
    """Send one chat request, stream its answer to the end."""
    started = time.perf_counter()
    ttft = 0.0
    parts: list[str] = []
    prompt_tokens = cached_tokens = completion_tokens = 0
    async with client.chat.completions.with_streaming_response.create(
        model=model,
        messages=messages,
        max_tokens=max_tokens,
        temperature=0.0,
        stream=True,
        stream_options={"include_usage": True},
    ) as response:
        stream = await response.parse()
        async for chunk in stream:
            ttft = ttft or time.perf_counter() - started
            if chunk.choices and chunk.choices[0].delta.content:
                parts.append(chunk.choices[0].delta.content)
            if chunk.usage is not None:
                prompt_tokens = chunk.usage.prompt_tokens
                completion_tokens = chunk.usage.completion_tokens
                details = chunk.usage.prompt_tokens_details
                cached_tokens = (details.cached_tokens if details else None) or 0
        replica = response.headers.get("x-warmroute-replica", "")
    return Turn(replica, "".join(parts), ttft, prompt_tokens, cached_tokens, completion_tokens)


class TurnFailedError(Exception):
    """A turn was not answered to its end."""


async def stream_turn(session: aiohttp.ClientSession, router: str, body: Mapping[str, Any]) -> Turn:
    """As `chat_turn`, for many at a time: without a client library, which would need more CPU than routers.

    Raises `TurnFailedError`.
    """
    started = time.perf_counter()
    request = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with session.post(f"{router}/v1/chat/completions", json=request) as response:
            first = await response.content.readany()
            ttft = time.perf_counter() - started
            answer = first + await response.content.read()
            status, replica = response.status, response.headers.get("x-warmroute-replica", "")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TurnFailedError(type(error).__name__) from error
    chunks = answer.split(b"\n\n")
    if status != 200 or b"data: [DONE]" not in chunks or b'data: {"error"' in answer:
        raise TurnFailedError(f"{status} {answer[-200:].decode(errors='replace')}")
    return _turn(replica, ttft, [chunk.removeprefix(b"data: ") for chunk in chunks])


def _turn(replica: str, ttft: float, events: Sequence[bytes]) -> Turn:
    chunks = [msgspec.json.decode(data, type=Chunk) for data in events if data.startswith(b"{")]
    usage = usage_in(chunks)
    return Turn(
        replica,
        whole_text(chunks),
        ttft,
        usage.prompt_tokens or 0,
        usage.cached_tokens or 0,
        usage.completion_tokens or 0,
    )


def slope(places: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope of values over places, and its standard error. There must be three values."""
    count = len(places)
    middle, mean = sum(places) / count, sum(values) / count
    spread = sum((place - middle) ** 2 for place in places)
    rise = sum((p - middle) * (v - mean) for p, v in zip(places, values, strict=True)) / spread
    rest = sum((v - mean - rise * (p - middle)) ** 2 for p, v in zip(places, values, strict=True))
    return rise, math.sqrt(rest / (count - 2) / spread)


def percentile(values: list[float], percent: float) -> float:
    """The value below which ``percent`` of the values lie, by linear interpolation. There must be one
    value."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
