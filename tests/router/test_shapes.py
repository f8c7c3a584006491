"""What is unusual about a request, said in few and short words whatever the client sends."""

import json

import pytest

from cluster.apis.messages import BILLING_HEADER
from router.requests.exactness import ENDS, MAX_FEATURES, MAX_NAME, shape_of
from router.requests.schema import parse_chat, parse_completion

HELLO = {"role": "user", "content": "Hello!"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
TOOL_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USUAL = {
    "one question": {},
    "a conversation": {
        "messages": [
            {"role": "system", "content": "You are"},
            HELLO,
            {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
            HELLO,
        ]
    },
    "tools": {
        "messages": [
            HELLO,
            {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
            {"role": "tool", "content": "1", "tool_call_id": "1"},
        ],
        "tools": [TOOL],
        "tool_choice": "auto",
    },
    "sampling": {"temperature": 0.5, "max_tokens": 3, "stop": ["x"], "documents": None},
    "billing in the text of a user": {"messages": [{"role": "user", "content": f"{BILLING_HEADER}: 1"}]},
    "billing in the middle of a line": {"messages": [{"role": "system", "content": f"x {BILLING_HEADER}"}]},
}
UNUSUAL = {
    "kwargs.add_generation_prompt": {"chat_template_kwargs": {"add_generation_prompt": False}},
    "kwargs.continue_final_message": {"chat_template_kwargs": {"continue_final_message": True}},
    "kwargs.tools": {"chat_template_kwargs": {"tools": [TOOL]}},
    "kwargs.messages": {"chat_template_kwargs": {"messages": [HELLO]}},
    "kwargs.bos_token": {"chat_template_kwargs": {"bos_token": "X"}},
    "kwargs.enable_thinking": {"chat_template_kwargs": {"enable_thinking": False}},
    "defer_loading": {"tools": [{**TOOL, "defer_loading": True}]},
    "defer_loading inside": {"tools": [{**TOOL, "function": {"name": "f", "defer_loading": True}}]},
    "custom tool": {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
    "tools not to be chosen": {"tools": [TOOL], "tool_choice": "none"},
    "documents": {"documents": [{"title": "t", "text": "x"}]},
    "reasoning_effort": {"reasoning_effort": "low"},
    "continue_final_message": {"continue_final_message": True, "add_generation_prompt": False},
    "add_generation_prompt": {"add_generation_prompt": False},
    "add_special_tokens": {"add_special_tokens": True},
    "functions": {"functions": [{"name": "f"}]},
    "developer": {"messages": [{"role": "developer", "content": "be brief"}, HELLO]},
    "another role": {"messages": [{"role": "ipython", "content": "1"}, HELLO]},
    "refusal": {
        "messages": [HELLO, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, HELLO]
    },
    "a bare text among parts": {"messages": [{"role": "user", "content": ["Hello"]}]},
    "name": {"messages": [{**HELLO, "name": "Alice"}]},
    "reasoning": {"messages": [HELLO, {"role": "assistant", "content": "x", "reasoning": "y"}, HELLO]},
    "tool call of a user": {"messages": [{**HELLO, "tool_calls": [TOOL_CALL]}]},
    "tool call that is parsed": {
        "messages": [
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
        ]
    },
    "no content": {"messages": [{"role": "user"}]},
    "billing": {"messages": [{"role": "system", "content": f"{BILLING_HEADER}: cch=1;\nYou are"}, HELLO]},
    "billing in a part": {
        "messages": [{"role": "system", "content": [{"type": "text", "text": f"a\n{BILLING_HEADER}: 1"}]}]
    },
}  # fmt: skip


def chat(**fields):
    """A parsed chat request."""
    return parse_chat(json.dumps({"model": "m", "messages": [HELLO], **fields}).encode())


@pytest.mark.parametrize("fields", USUAL.values(), ids=USUAL)
def test_ordinary_requests_have_one_shape(fields):
    """Whatever belongs to everyday use of an API is nothing to be told apart."""
    assert shape_of(chat(**fields)) == ("chat/completions", ())


def test_apis_are_told_apart():
    """A text completion is no chat."""
    call = parse_completion(b'{"model": "m", "prompt": "Hello!"}')
    assert str(shape_of(call)) == "completions"
    assert shape_of(chat()) != shape_of(call)


def test_unusual_requests_have_shapes_of_their_own():
    """Each kind differs from the ordinary one; kinds that are one thing in two places may be one."""
    shapes = {name: shape_of(chat(**fields)) for name, fields in UNUSUAL.items()}
    assert all(shape.features for shape in shapes.values())
    assert len(set(shapes.values())) == len(UNUSUAL) - 3
    assert str(shapes["continue_final_message"]) == (
        "chat/completions with add_generation_prompt, continue_final_message"
    )
    assert str(shapes["developer"]) == "chat/completions with role developer"


@pytest.mark.parametrize("where", range(0, ENDS, 3))
def test_both_ends_of_a_long_conversation_are_looked_at(where):
    """An unusual message is found at the beginning and at the end."""
    for place in (where, -1 - where):
        messages = [HELLO] * 5000
        messages[place] = {"role": "developer", "content": "x"}
        assert shape_of(chat(messages=messages)).features == ("role developer",)


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {f"{'x' * 1000}{number}": 1 for number in range(1000)}},
        {"chat_template_kwargs": {f"x{number}": 1 for number in range(1000)}},
        {"messages": [{"role": "x" * 64, "content": "x"}] * 100},
        {"messages": [{"role": f"x{number}", "content": "x"} for number in range(100)]},
        {"messages": [{**HELLO, **{f"x{number}": 1 for number in range(1000)}}]},
        {"messages": [{**HELLO, "content": [{"type": f"x{number}"} for number in range(1000)]}]},
        {"messages": [{**HELLO, "content": [{"type": {"x": "y"}}, {"type": None}, {}]}]},
        {"messages": [{"role": "new\nline", "content": "x"}, {"role": "rôle", "content": "x"}]},
        {"tools": [{"type": ["x"]}, {"function": 3}, {"function": None}] * 1000},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": value} for value in (3, [3], {})]},
        {"documents": "x" * 100_000},
    ],
)
def test_a_shape_is_small_whatever_is_sent(fields):
    """Names that clients invent are cut down, and a request has few features."""
    shape = shape_of(chat(**fields))
    assert len(shape.features) <= MAX_FEATURES
    assert len(str(shape)) <= 40 + MAX_FEATURES * (MAX_NAME + 25)
    assert str(shape).isascii()
    assert str(shape).isprintable()


@pytest.mark.parametrize(
    "messages", [3, {}, [3, None, [], {}], [{"role": {}, "content": []}], [{"role": [1]}]]
)
def test_what_is_not_checked_may_be_anything(messages):
    """A text completion may carry a field that only looks like a chat's."""
    body = {"model": "m", "prompt": "Hello!", "messages": messages, "tools": messages}
    assert shape_of(parse_completion(json.dumps(body).encode())).family == "completions"
