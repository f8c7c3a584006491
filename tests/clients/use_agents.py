"""Anthropic's and OpenAI's Python clients, with what agents ask of Messages and Responses."""

from anthropic import Anthropic
from anthropic import BadRequestError as BadMessageError
from anthropic import NotFoundError as NoMessageError
from openai import BadRequestError, NotFoundError, OpenAI
from reporting import ARGUMENTS, MODEL, URL, run

messages = Anthropic(base_url=URL, api_key="none", max_retries=0).messages
openai = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
responses = openai.responses
SYSTEM = "You are a helpful assistant."
HELLO = [{"role": "user", "content": "Hello!"}]
ASKED = {"model": MODEL, "max_tokens": 8, "system": SYSTEM}
MOST = {"model": MODEL, "max_output_tokens": 8, "instructions": SYSTEM}
SHORT = "Tell me about prefix caching, please. " * 30
LONG = SHORT * 5
"""More than the 1,024 tokens from which a breakpoint counts."""
PARAMETERS = {
    "type": "object",
    "properties": {"what": {"type": "string", "enum": ["the"]}, "how_many": {"type": "integer", "enum": [1]}},
    "required": ["what", "how_many"],
    "additionalProperties": False,
}
FIND = {"name": "find", "description": "Find it.", "input_schema": PARAMETERS}
FUNCTION = {"type": "function", "name": "find", "parameters": PARAMETERS, "strict": True}


def total(usage):
    """All tokens of a message's prompt."""
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


def message():
    """A whole answer, with thinking switched on and thoughts in the history."""
    thoughts = {"type": "thinking", "thinking": "Simple.", "signature": "x"}
    history = [*HELLO, {"role": "assistant", "content": [thoughts, {"type": "text", "text": "Hi!"}]}, *HELLO]
    answer = messages.create(**ASKED, messages=history, thinking={"type": "adaptive"})
    assert answer.content
    assert answer.usage.output_tokens


def message_stream():
    """The pieces are the whole; the next turn finds the blocks of this one."""
    with messages.stream(**ASKED, messages=[{"role": "user", "content": SHORT}]) as stream:
        text = "".join(stream.text_stream)
        answer = stream.get_final_message()
    assert answer.content[0].text == text
    history = [{"role": "user", "content": SHORT}, {"role": "assistant", "content": text}, *HELLO]
    found = messages.create(**ASKED, messages=history).usage.cache_read_input_tokens
    assert found >= 0.95 * (total(answer.usage) // 32 * 32), found


def message_tools():
    """A call with its arguments, whole and streamed, and an answer to its result."""
    asked = {**ASKED, "max_tokens": 100, "tools": [FIND]}
    for streamed in (False, True):
        history = [{"role": "user", "content": f"find {streamed}"}]
        choice = {"type": "tool", "name": "find"}
        if streamed:
            with messages.stream(**asked, messages=history, tool_choice=choice) as stream:
                answer = stream.get_final_message()
        else:
            answer = messages.create(**asked, messages=history, tool_choice=choice)
        [call] = answer.content
        assert (answer.stop_reason, call.name, call.input) == ("tool_use", "find", ARGUMENTS), answer
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "there"}
        history += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        assert messages.create(**asked, messages=history).stop_reason


def count_tokens():
    """As many as are then counted."""
    counted = messages.count_tokens(model=MODEL, system=SYSTEM, messages=HELLO, tools=[FIND])
    assert counted.input_tokens == total(messages.create(**ASKED, messages=HELLO, tools=[FIND]).usage)


def cache_control():
    """What is created before a breakpoint, by lifetime, and what is read again, whole and streamed."""
    marked = {
        "type": "text",
        "text": f"Once more. {LONG}",
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
    }
    asked = {**ASKED, "system": [marked], "messages": HELLO}
    usage = messages.create(**asked).usage
    assert usage.cache_creation.ephemeral_1h_input_tokens == usage.cache_creation_input_tokens >= 1000, usage
    with messages.stream(**asked) as stream:
        again = stream.get_final_message().usage
    assert again.cache_read_input_tokens >= 1000, again
    assert again.cache_creation_input_tokens < 64, again
    assert total(again) == total(usage)


def message_errors():
    """By their classes."""
    marked = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    for kind, fields in (
        (NoMessageError, {"model": "unknown"}),
        (BadMessageError, {"messages": [{"role": "user", "content": LONG * 20}]}),
        (BadMessageError, {"messages": [{"role": "user", "content": [marked] * 5}]}),
    ):
        try:
            messages.create(**{**ASKED, "messages": HELLO, **fields})
        except kind:
            continue
        raise AssertionError("no error")


def response():
    """A whole answer, which can be retrieved and deleted."""
    answer = responses.create(**MOST, input="Hello!")
    assert answer.output_text
    assert responses.retrieve(answer.id).output_text == answer.output_text
    [item] = responses.input_items.list(answer.id).data
    assert item.content[0].text == "Hello!"
    responses.delete(answer.id)
    assert is_missing(lambda: responses.retrieve(answer.id))


def is_missing(attempt):
    """Whether what is asked for is not there."""
    try:
        attempt()
    except NotFoundError:
        return True
    return False


def turns():
    """By ``previous_response_id``, whole and streamed, on the blocks of the turn before."""
    answer = responses.create(**MOST, input=f"Some turns. {SHORT}")
    for number in range(3):
        before, asked = answer, {**MOST, "input": f"Go on {number}.", "previous_response_id": answer.id}
        if number == 1:
            with responses.stream(**asked) as stream:
                answer = stream.get_final_response()
        else:
            answer = responses.create(**asked)
        assert answer.previous_response_id == before.id
        found = answer.usage.input_tokens_details.cached_tokens
        assert found >= 0.95 * (before.usage.input_tokens // 32 * 32), (found, before.usage)


def response_tools():
    """A call with its arguments, whole and streamed, and an answer to its result."""
    asked = {**MOST, "max_output_tokens": 100, "tools": [FUNCTION]}
    for streamed in (False, True):
        choice = {"type": "function", "name": "find"}
        if streamed:
            with responses.stream(**asked, input=f"find {streamed}", tool_choice=choice) as stream:
                answer = stream.get_final_response()
        else:
            answer = responses.create(**asked, input=f"find {streamed}", tool_choice=choice)
        [call] = [item for item in answer.output if item.type == "function_call"]
        assert (call.name, call.arguments.replace(" ", "")) == ("find", '{"what":"the","how_many":1}'), call
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "there"}
        answer = responses.create(**asked, input=[result], previous_response_id=answer.id)
        assert answer.output


def conversations():
    """Create, ask, list, update, delete."""
    made = openai.conversations.create(metadata={"a": "b"})
    for text in ("One.", "Two."):
        assert responses.create(**MOST, input=text, conversation=made.id).conversation.id == made.id
    roles = [item.role for item in openai.conversations.items.list(made.id, order="asc")]
    assert roles == ["user", "assistant"] * 2
    openai.conversations.update(made.id, metadata={"c": "d"})
    assert openai.conversations.retrieve(made.id).metadata == {"c": "d"}
    openai.conversations.delete(made.id)
    assert is_missing(lambda: openai.conversations.retrieve(made.id))


def background():
    """A stream that goes on behind a given event, and one that is cancelled."""
    seen = []
    for event in responses.create(**MOST, input="Hello!", background=True, stream=True):
        seen.append(event)
        if len(seen) == 5:
            break
    made = seen[0].response
    for event in responses.retrieve(made.id, stream=True, starting_after=seen[-1].sequence_number):
        seen.append(event)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type in ("response.completed", "response.incomplete")
    going = responses.create(**{**MOST, "max_output_tokens": 2000}, input="Count.", background=True)
    assert going.status == "queued"
    assert responses.cancel(going.id).status == "cancelled"
    assert responses.retrieve(going.id).status == "cancelled"


def response_errors():
    """By their classes."""
    for kind, fields in (
        (NotFoundError, {"model": "unknown"}),
        (BadRequestError, {"input": 5}),
        (NotFoundError, {"previous_response_id": "resp_unknown"}),
    ):
        try:
            responses.create(**{**MOST, "input": "Hello!", **fields})
        except kind:
            continue
        raise AssertionError("no error")


run(
    message, message_stream, message_tools, count_tokens, cache_control, message_errors, response, turns,
    response_tools, conversations, background, response_errors,
)  # fmt: skip
