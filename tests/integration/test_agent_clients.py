"""The official ``anthropic`` and ``openai`` packages against routers with simulated engines."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.integration.system import System

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

BLOCK_SIZE = 16
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


@pytest.fixture
async def messages(router: str) -> AsyncIterator[Any]:
    """Anthropic's client."""
    async with anthropic.AsyncAnthropic(base_url=router, api_key="none", max_retries=0) as client:
        yield client.messages


@pytest.fixture
async def responses(router: str) -> AsyncIterator[Any]:
    """OpenAI's client."""
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
    with pytest.raises(anthropic.NotFoundError):
        await messages.create(model="no", max_tokens=8, messages=hello)
    with pytest.raises(anthropic.BadRequestError, match="maximum context length"):
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
    with pytest.raises(openai.NotFoundError):
        await responses.create(model="no", input="Hello!")
    with pytest.raises(openai.BadRequestError):
        await responses.create(model="tiny", input=5)
