"""The official ``anthropic`` and ``openai`` packages against routers with simulated engines."""

import importlib
import json
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.system import System

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

BLOCK_SIZE = 16
TIMED = 100
"""Pairs of requests for an id that is another tenant's and one that never was."""
PROMPT = "Tell me about prefix caching, please. " * 30
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ARGUMENTS = {"city": "find"}
MESSAGE_TOOL: Any = {"name": "weather", "description": "what people look for", "input_schema": SCHEMA}
RESPONSE_TOOL: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}


@pytest.fixture
async def router(system: System, tmp_path: Path) -> str:
    """A router before two engines, which call a tool once per conversation that offers it."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"name": "weather", "arguments": ARGUMENTS}]))
    options = ("--script", str(script), "--answer-tokens", "24")
    engines = [await system.start_engine(0, *options) for _ in range(2)]
    system.start_agent(*(url for url, _ in engines))
    return await system.start_router()


def package(name: str) -> Any:
    """One of the two packages. Importing it takes seconds, which is nothing for collecting tests."""
    return importlib.import_module(name)


@pytest.fixture
async def messages(router: str) -> AsyncIterator[Any]:
    """Anthropic's client."""
    async with package("anthropic").AsyncAnthropic(base_url=router, api_key="none", max_retries=0) as client:
        yield client.messages


@pytest.fixture
async def responses(router: str) -> AsyncIterator[Any]:
    """OpenAI's client."""
    openai = package("openai")
    async with openai.AsyncOpenAI(base_url=f"{router}/v1", api_key="none", max_retries=0) as client:
        yield client.responses


def possible(total_before: int) -> int:
    """Tokens in whole blocks of what a turn before has computed; the last token of an answer is not."""
    return (total_before - 1) // BLOCK_SIZE * BLOCK_SIZE


async def test_messages(messages: Any) -> None:
    """All that an agent does with Anthropic's client."""
    await conversation_of_messages(messages)
    for streamed in (False, True):
        await tools_of_messages(messages, streamed)
    await errors_of_messages(messages)


async def test_responses(responses: Any) -> None:
    """All that an agent does with OpenAI's client."""
    await conversation_of_responses(responses)
    for streamed in (False, True):
        await tools_of_responses(responses, streamed)
    await errors_of_responses(responses)


async def conversation_of_messages(messages: Any) -> None:
    """Three turns, whole and streamed: every later one finds the blocks of the one before."""
    history: list[Any] = [{"role": "user", "content": PROMPT}]
    asked = {"model": "tiny", "max_tokens": 400, "system": "You are a helpful assistant."}
    before = 0
    for number in range(3):
        if number % 2:
            async with messages.stream(messages=history, **asked) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                answer = await stream.get_final_message()
            assert answer.content[0].text == text
        else:
            answer = await messages.create(messages=history, **asked)
        usage = answer.usage
        total = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
        counted = await messages.count_tokens(
            model="tiny", messages=history, system="You are a helpful assistant."
        )
        assert counted.input_tokens == total
        assert (answer.stop_reason, usage.output_tokens) == ("end_turn", 24)
        assert usage.cache_read_input_tokens >= 0.95 * possible(before)
        before = total + usage.output_tokens
        history += [
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
        ]


async def tools_of_messages(messages: Any, streamed: bool) -> None:
    """A call with its arguments, and an answer in words to the result."""
    history: list[Any] = [{"role": "user", "content": "find water"}]
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 400, "tools": [MESSAGE_TOOL]}

    async def ask() -> Any:
        if not streamed:
            return await messages.create(messages=history, **asked)
        async with messages.stream(messages=history, **asked) as stream:
            return await stream.get_final_message()

    answer = await ask()
    assert answer.stop_reason == "tool_use"
    [call] = answer.content
    assert (call.type, call.name, call.input) == ("tool_use", "weather", ARGUMENTS)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "water is down there"}
    history += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    answer = await ask()
    assert (answer.stop_reason, answer.content[0].type) == ("end_turn", "text")


async def errors_of_messages(messages: Any) -> None:
    """The classes that the package has for them."""
    hello: Any = [{"role": "user", "content": "Hello!"}]
    with pytest.raises(package("anthropic").NotFoundError):
        await messages.create(model="no", max_tokens=8, messages=hello)
    with pytest.raises(package("anthropic").BadRequestError, match="maximum context length"):
        await messages.create(
            model="tiny", max_tokens=8, messages=[{"role": "user", "content": PROMPT * 300}]
        )


async def conversation_of_responses(responses: Any) -> None:
    """Three turns whose items the client keeps, whole and streamed, on the blocks of the turn before."""
    items: list[Any] = [{"role": "user", "content": PROMPT}]
    asked = {"model": "tiny", "instructions": "You are a helpful assistant.", "store": False}
    before = 0
    for number in range(3):
        if number % 2:
            kinds = []
            async with responses.stream(input=items, **asked) as stream:
                async for event in stream:
                    kinds.append(event.type)
                answer = await stream.get_final_response()
            assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
            assert kinds[-1] == "response.completed"
        else:
            answer = await responses.create(input=items, **asked)
        assert answer.status == "completed"
        assert answer.output_text
        assert answer.usage.input_tokens_details.cached_tokens >= 0.95 * possible(before)
        before = answer.usage.total_tokens
        items += [
            *(item.model_dump(exclude_none=True) for item in answer.output),
            {"role": "user", "content": [{"type": "input_text", "text": "Hello!"}]},
        ]


async def tools_of_responses(responses: Any, streamed: bool) -> None:
    """A call with its arguments, and an answer in words to the result."""
    items: list[Any] = [{"role": "user", "content": "find water"}]
    asked: dict[str, Any] = {"model": "tiny", "tools": [RESPONSE_TOOL], "store": False}

    async def ask() -> Any:
        if not streamed:
            return await responses.create(input=items, **asked)
        async with responses.stream(input=items, **asked) as stream:
            return await stream.get_final_response()

    [call] = (await ask()).output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", ARGUMENTS)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "water is down there"}
    items += [{name: getattr(call, name) for name in ("type", "call_id", "name", "arguments")}, result]
    answer = await ask()
    assert (answer.output[0].type, answer.status) == ("message", "completed")


async def errors_of_responses(responses: Any) -> None:
    """The classes that the package has for them."""
    with pytest.raises(package("openai").NotFoundError):
        await responses.create(model="no", input="Hello!")
    with pytest.raises(package("openai").BadRequestError):
        await responses.create(model="tiny", input=5)


SECRET = "a secret of the routers"


async def test_stored_responses(system: System, tmp_path: Path) -> None:
    """Conversations go on at another router, on their blocks; nothing is left of what is deleted, and Redis
    never sees a text.
    """
    engines = [await system.start_engine(0, "--answer-tokens", "24", "--step-ms", "20") for _ in range(2)]
    system.start_agent(*(url for url, _ in engines))
    environment = {
        "WARMROUTE_STORED_RESPONSES": "redis",
        "WARMROUTE_STORED_KEYS": SECRET,
        "WARMROUTE_API_KEYS": "a=key-a,b=key-b",
    }
    urls = [await system.start_router(**environment) for _ in range(2)]
    clients = [
        package("openai").AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        for url, key in ((urls[0], "key-a"), (urls[1], "key-a"), (urls[1], "key-b"))
    ]
    first, second, stranger = clients
    try:
        await turns_that_follow_each_other(first, second)
        await conversation_at_two_routers(first, second)
        await background_that_is_resumed(first, second)
        await nobody_else_finds_it(first, stranger)
        assert b"prefix caching" not in await everything_in_redis(system)
        await deletion_is_complete(system, first)
    finally:
        for client in clients:
            await client.close()


async def turns_that_follow_each_other(first: Any, second: Any) -> None:
    """By ``previous_response_id``, whole and streamed, at one router after the other."""
    answer = await first.responses.create(model="tiny", input=PROMPT)
    before = answer.usage.total_tokens
    for number in range(3):
        client = (second, first)[number % 2]
        asked = {"model": "tiny", "input": "Hello!", "previous_response_id": answer.id}
        if number == 1:
            async with client.responses.stream(**asked) as stream:
                answer = await stream.get_final_response()
        else:
            answer = await client.responses.create(**asked)
        assert answer.previous_response_id == asked["previous_response_id"]
        assert answer.usage.input_tokens > before
        assert answer.usage.input_tokens_details.cached_tokens >= 0.95 * possible(before)
        before = answer.usage.total_tokens
    found = await first.responses.retrieve(answer.id)
    assert found.output_text == answer.output_text
    items = [item async for item in await second.responses.input_items.list(answer.id)]
    assert [item.content[0].text for item in items] == ["Hello!"]
    await second.responses.delete(answer.id)
    with pytest.raises(package("openai").NotFoundError):
        await first.responses.retrieve(answer.id)
    with pytest.raises(package("openai").NotFoundError):
        await first.responses.create(model="tiny", input="Hello!", previous_response_id=answer.id)


async def conversation_at_two_routers(first: Any, second: Any) -> None:
    """Its items are those of all turns, in order, and can be changed."""
    made = await first.conversations.create(
        metadata={"a": "b"}, items=[{"type": "message", "role": "user", "content": PROMPT}]
    )
    for client in (second, first):
        answer = await client.responses.create(model="tiny", input="Hello!", conversation=made.id)
        assert answer.conversation.id == made.id
    listed = [item async for item in await second.conversations.items.list(made.id, order="asc", limit=2)]
    assert [item.role for item in listed] == ["user", "user", "assistant", "user", "assistant"]
    assert (await first.conversations.items.retrieve(listed[0].id, conversation_id=made.id)).role == "user"
    await first.conversations.items.delete(listed[0].id, conversation_id=made.id)
    await second.conversations.update(made.id, metadata={"c": "d"})
    assert (await first.conversations.retrieve(made.id)).metadata == {"c": "d"}
    assert len([item async for item in await first.conversations.items.list(made.id)]) == 4
    await first.conversations.delete(made.id)
    with pytest.raises(package("openai").NotFoundError):
        await second.conversations.retrieve(made.id)


async def background_that_is_resumed(first: Any, second: Any) -> None:
    """Its stream goes on at another router behind a given event; and it can be cancelled."""
    kinds, numbers = [], []
    stream = await first.responses.create(model="tiny", input="find water", background=True, stream=True)
    async for event in stream:
        kinds.append(event.type)
        numbers.append(event.sequence_number)
        if event.type == "response.created":
            response_id = event.response.id
        if len(kinds) == 5:
            break
    async for event in await second.responses.retrieve(response_id, stream=True, starting_after=numbers[-1]):
        kinds.append(event.type)
        numbers.append(event.sequence_number)
    assert numbers == list(range(len(numbers)))
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert (await first.responses.retrieve(response_id)).status == "completed"
    going = await first.responses.create(model="tiny", input="find water now", background=True)
    assert going.status == "queued"
    assert (await second.responses.cancel(going.id)).status == "cancelled"
    assert (await first.responses.retrieve(going.id)).status == "cancelled"


async def nobody_else_finds_it(owner: Any, stranger: Any) -> None:
    """What belongs to another tenant is not there, by any way."""
    answer = await owner.responses.create(model="tiny", input="Hello!")
    made = await owner.conversations.create()
    for attempt in (
        stranger.responses.retrieve(answer.id),
        stranger.responses.delete(answer.id),
        stranger.responses.create(model="tiny", input="a", previous_response_id=answer.id),
        stranger.responses.create(model="tiny", input="a", conversation=made.id),
        stranger.conversations.retrieve(made.id),
    ):
        with pytest.raises(package("openai").NotFoundError):
            await attempt
    assert (await owner.responses.retrieve(answer.id)).id == answer.id
    await foreign_takes_as_long_as_unknown(stranger, answer.id)


async def foreign_takes_as_long_as_unknown(stranger: Any, foreign: str) -> None:
    """The time of a refusal does not tell whether an id exists; ``pytest -s`` shows the times."""
    seconds: dict[str, list[float]] = {foreign: [], foreign[:-1] + "x": []}
    for number in range(TIMED):
        for response_id in sorted(seconds, reverse=bool(number % 2)):
            started = time.perf_counter()
            with pytest.raises(package("openai").NotFoundError):
                await stranger.responses.retrieve(response_id)
            seconds[response_id].append(time.perf_counter() - started)
    took = [statistics.median(times) for times in seconds.values()]
    print(f"foreign {1000 * took[0]:.3f} ms, unknown {1000 * took[1]:.3f} ms")  # noqa: T201
    assert 0.8 < took[0] / took[1] < 1.25


async def everything_in_redis(system: System) -> bytes:
    """All keys and strings."""
    client: Any = Redis.from_url(system.redis.url)
    try:
        keys = [key async for key in client.scan_iter(match="*:stored:*")]
        assert keys
        return b"".join(
            [key + ((await client.get(key)) or b"") for key in keys if not key.endswith(b":index")]
        )
    finally:
        await client.aclose()


async def deletion_is_complete(system: System, client: Any) -> None:
    """Of a response made in the background and its stream nothing is left."""
    made = await client.responses.create(model="tiny", input="Hello!", background=True)
    async for _ in await client.responses.retrieve(made.id, stream=True):
        pass
    assert made.id.encode() in await everything_in_redis(system)
    await client.responses.delete(made.id)
    assert made.id.encode() not in await everything_in_redis(system)
