"""What every measurement here shares: one streamed chat turn, timed, and percentiles."""

import time
from dataclasses import dataclass

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam


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


def percentile(values: list[float], percent: float) -> float:
    """The value below which ``percent`` of the values lie, by linear interpolation. There must be one
    value."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
