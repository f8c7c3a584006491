"""LiteLLM as a client: vLLM by its own name, and any server that speaks OpenAI's API."""

import asyncio
import json

import litellm
from pydantic import BaseModel
from reporting import ARGUMENTS, ENDLESS, MODEL, QUESTION, TOOL, URL, run

litellm.suppress_debug_info = True
PROVIDERS = ("hosted_vllm", "openai")


class Find(BaseModel):
    """What to find."""

    what: str
    how_many: int


def ask(provider="hosted_vllm", **fields):
    """One request."""
    fields = {"messages": QUESTION, "max_tokens": 20, **fields}
    return litellm.completion(
        model=f"{provider}/{MODEL}", api_base=f"{URL}/v1", api_key="none", num_retries=0, **fields
    )


def chat():
    """By both names."""
    for provider in PROVIDERS:
        answer = ask(provider)
        assert answer.choices[0].message.content
        assert answer.usage.completion_tokens == 20


def stream():
    """Pieces, and usage at the end."""
    for provider in PROVIDERS:
        pieces = list(ask(provider, stream=True, stream_options={"include_usage": True}))
        assert len(pieces) > 10
        assert pieces[-1].usage.completion_tokens == 20


def tools():
    """A call and its result, whole and in pieces."""
    for provider in PROVIDERS:
        message = ask(provider, tools=[TOOL], max_tokens=100).choices[0].message
        call = message.tool_calls[0]
        assert json.loads(call.function.arguments) == ARGUMENTS
        result = {"role": "tool", "tool_call_id": call.id, "content": "there"}
        answer = ask(provider, tools=[TOOL], messages=[*QUESTION, message.model_dump(), result])
        assert answer.choices[0].message.content
        pieces = list(ask(provider, tools=[TOOL], stream=True, max_tokens=100))
        whole = litellm.stream_chunk_builder(pieces)
        assert json.loads(whole.choices[0].message.tool_calls[0].function.arguments) == ARGUMENTS


def structured():
    """An answer in a schema."""
    for provider in PROVIDERS:
        answer = ask(provider, response_format=Find, max_tokens=100)
        assert json.loads(answer.choices[0].message.content) == ARGUMENTS


def errors():
    """An unknown model, and a bad request, by their classes."""
    for expected, fields in (
        (litellm.NotFoundError, {"model": "hosted_vllm/unknown", "messages": QUESTION}),
        (litellm.BadRequestError, {"model": f"hosted_vllm/{MODEL}", "messages": QUESTION, "max_tokens": -1}),
    ):
        try:
            litellm.completion(api_base=f"{URL}/v1", api_key="none", num_retries=0, **fields)
        except expected:
            continue
        raise AssertionError(expected)


def abort():
    """Leaving a stream in its middle."""

    async def leave():
        pieces = await litellm.acompletion(
            model=f"hosted_vllm/{MODEL}", api_base=f"{URL}/v1", api_key="none", messages=QUESTION,
            max_tokens=ENDLESS, stream=True,
        )  # fmt: skip
        async for _ in pieces:
            break
        await pieces.aclose()

    asyncio.run(leave())


run(chat, stream, tools, structured, errors, abort)
