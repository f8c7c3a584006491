"""The official Python client, against a router."""

import asyncio
import json

import httpx
import openai
from pydantic import BaseModel
from reporting import ARGUMENTS, ENDLESS, MODEL, QUESTION, TOOL, URL, run

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=60)


class Find(BaseModel):
    """What to find."""

    what: str
    how_many: int


def models():
    """The list, and one of it."""
    assert MODEL in [one.id for one in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def chat():
    """Two turns; the second finds the first in the cache."""
    long = [{"role": "system", "content": "You are a helpful assistant. " * 40}, *QUESTION[1:]]
    first = client.chat.completions.create(model=MODEL, messages=long, max_tokens=40)
    text = first.choices[0].message.content
    assert text
    assert first.choices[0].finish_reason == "length"
    assert first.usage.completion_tokens == 40
    following = [*long, first.choices[0].message, {"role": "user", "content": "more"}]
    second = client.chat.completions.create(model=MODEL, messages=following, max_tokens=4)
    assert second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens // 2


def parts():
    """Content as a list of parts, and the newer names of fields."""
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": [{"type": "text", "text": "Hello!"}, {"type": "text", "text": "more"}]},
    ]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, max_completion_tokens=5, seed=1, user="u", store=False, n=2,
        metadata={"a": "b"}, temperature=0, logprobs=False, parallel_tool_calls=True, extra_body={"top_k": 1},
    )  # fmt: skip
    assert [one.index for one in answer.choices] == [0, 1]


def completion():
    """A text completion, whole and as a stream."""
    whole = client.completions.create(model=MODEL, prompt="the people", max_tokens=8)
    pieces = client.completions.create(model=MODEL, prompt="the people", max_tokens=8, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


def stream():
    """Pieces, the reason of the end, and usage where it was asked for."""
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=20, stream=True, stream_options=options
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(chunks) > 10
    assert [one.finish_reason for chunk in chunks for one in chunk.choices if one.finish_reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == 20
    plain = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=20, stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in plain)


def tools():
    """A call, its result, and the answer to it."""
    asked = client.chat.completions.create(model=MODEL, messages=QUESTION, tools=[TOOL], tool_choice="auto")
    choice = asked.choices[0]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("find", ARGUMENTS)
    messages = [*QUESTION, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "there"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL], max_tokens=5)
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


def tools_stream():
    """The helper puts a call together from its pieces, and parses its arguments."""
    tool = openai.pydantic_function_tool(Find, name="find")
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, tools=[tool]) as events:
        for _ in events:
            pass
        call = events.get_final_completion().choices[0].message.tool_calls[0]
    assert call.function.name == "find"
    assert call.function.parsed_arguments == Find(**ARGUMENTS)


def structured():
    """An answer as an object of a class."""
    answer = client.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=Find)
    assert answer.choices[0].message.parsed == Find(**ARGUMENTS)
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, response_format=Find) as events:
        for _ in events:
            pass
        assert events.get_final_completion().choices[0].message.parsed == Find(**ARGUMENTS)


def abort():
    """Leaving a stream in its middle."""
    events = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=ENDLESS, stream=True)
    for number, _ in enumerate(events):
        if number == 3:
            break
    events.close()


def abort_async():
    """A cancelled task, and one that has waited too long for an answer that is not streamed."""

    async def leave():
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0) as many:
            asked = many.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=ENDLESS)
            task = asyncio.create_task(asked)
            await asyncio.sleep(0.5)
            task.cancel()
            try:
                await many.with_options(timeout=0.5).chat.completions.create(
                    model=MODEL, messages=QUESTION, max_tokens=ENDLESS
                )
            except openai.APITimeoutError:
                return
            raise AssertionError("no time-out")

    asyncio.run(leave())


def errors():
    """Each error has its own class."""
    for expected, fields in (
        (openai.NotFoundError, {"model": "unknown", "messages": QUESTION}),
        (openai.BadRequestError, {"model": MODEL, "messages": []}),
        (openai.BadRequestError, {"model": MODEL, "messages": QUESTION, "max_tokens": -1}),
    ):
        try:
            client.chat.completions.create(**fields)
        except expected as error:
            body = error.body
        else:
            raise AssertionError(expected)
        assert body["message"], body


def raw():
    """Headers of an answer, and a body that is read as it comes."""
    answer = client.chat.completions.with_raw_response.create(model=MODEL, messages=QUESTION, max_tokens=5)
    assert answer.headers["x-warmroute-replica"]
    assert answer.parse().choices
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=QUESTION, max_tokens=5, stream=True
    ) as answer:
        assert list(answer.iter_lines())[-2:] in (["data: [DONE]", ""], ["", "data: [DONE]"])


def compression():
    """A client that would take a compressed answer gets one that it can read."""
    with httpx.Client(headers={"accept-encoding": "gzip, br, zstd"}) as own:
        other = openai.OpenAI(base_url=f"{URL}/v1/", api_key="none", http_client=own)
        answer = other.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=5)
    assert answer.choices[0].message.content


run(
    models, chat, parts, completion, stream, tools, tools_stream, structured, abort, abort_async, errors, raw,
    compression,
)  # fmt: skip
