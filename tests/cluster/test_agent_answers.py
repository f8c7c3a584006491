"""Answers of chat completions, told as Messages and as Responses."""

import json

import pytest

from cluster.apis.message_answers import MessageMaker
from cluster.apis.response_answers import ResponseMaker

USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}


def chunk(finish=None, stop=None, **delta):
    """One chunk of a chat completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "stop_reason": stop}
    return {"id": "x", "model": "m", "choices": [choice]}


def call(index, arguments, **about):
    """A piece of a call."""
    name = about.pop("name", None)
    return {"tool_calls": [{"index": index, "function": {"name": name, "arguments": arguments}, **about}]}


CHUNKS = [
    chunk(role="assistant", content=""),
    chunk(reasoning="hm"),
    chunk(reasoning_content="m"),
    chunk(content="two "),
    chunk(content="words"),
    chunk(**call(0, "", name="f", id="call_a")),
    chunk(**call(0, '{"a":')),
    chunk(content="late"),
    chunk(**call(0, "1}")),
    chunk(**call(1, "{}", name="g", id="call_b")),
    chunk(finish="tool_calls"),
    {"choices": [], "usage": USAGE},
]
MESSAGE = {
    "reasoning": "hmm",
    "content": "two words",
    "tool_calls": [
        {"id": "call_a", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "call_b", "function": {"name": "g", "arguments": "{}"}},
    ],
}


def events(maker, chunks=CHUNKS):
    """The data of the events that chunks become; each is named after its type."""
    raw = b"".join([*(event for one in chunks for event in maker.feed(one)), *maker.close()])
    found = []
    for one in raw.decode().removesuffix("\n\n").split("\n\n"):
        name, data = one.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def whole(message=MESSAGE, finish="tool_calls", stop=None, usage=USAGE):
    """A chat completion."""
    choice = {"message": message, "finish_reason": finish, "stop_reason": stop}
    return {"id": "x", "model": "m", "choices": [choice], "usage": usage}


def test_message_stream_has_anthropics_grammar():
    """Blocks one after the other; text in the middle of a call comes after it; thoughts are signed."""
    found = events(MessageMaker())
    assert found[0]["type"] == "message_start"
    assert [event["type"] for event in found[-2:]] == ["message_delta", "message_stop"]
    assert found[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert found[-2]["usage"] == {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 4}
    blocks = []
    for event in found[1:-2]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append([event["content_block"]["type"]])
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            blocks[event["index"]].append(
                "signed" if delta["type"] == "signature_delta" else list(delta.values())[1]
            )
    assert blocks == [
        ["thinking", "hm", "m", "signed"],
        ["text", "two ", "words"],
        ["tool_use", '{"a":', "1}"],
        ["text", "late"],
        ["tool_use", "{}"],
    ]


@pytest.mark.parametrize(
    ("finish", "stop", "message", "reason"),
    [
        ("stop", None, {"content": "a"}, "end_turn"),
        ("length", None, {"content": "a"}, "max_tokens"),
        ("stop", "END", {"content": "a"}, "stop_sequence"),
        ("stop", 7, {"content": None}, "end_turn"),
        ("tool_calls", None, MESSAGE, "tool_use"),
        ("length", None, MESSAGE, "max_tokens"),
    ],
)
def test_whole_message(finish, stop, message, reason):
    """Why it ended; what an engine does not count is left out; an empty answer is one empty text."""
    answer = MessageMaker().whole(whole(message, finish, stop))
    assert answer["stop_reason"] == reason
    assert answer["stop_sequence"] == (stop if reason == "stop_sequence" else None)
    assert "cache_creation_input_tokens" not in answer["usage"]
    kinds = [block["type"] for block in answer["content"]]
    assert kinds == (["thinking", "text", "tool_use", "tool_use"] if message is MESSAGE else ["text"])


def test_response_stream_has_openais_grammar():
    """Numbered events; items begin, grow and end with the same id; the last event has them all."""
    found = events(ResponseMaker({"model": "m", "metadata": {"a": "b"}}))
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [event["type"] for event in found[:2]] == ["response.created", "response.in_progress"]
    response = found[-1]["response"]
    assert (found[-1]["type"], response["status"], response["metadata"]) == (
        "response.completed",
        "completed",
        {"a": "b"},
    )
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 4
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == response["output"]
    assert [item["type"] for item in done] == [
        "reasoning",
        "message",
        "function_call",
        "message",
        "function_call",
    ]
    added = [event["item"]["id"] for event in found if event["type"] == "response.output_item.added"]
    assert added == [item["id"] for item in done]
    text = "".join(
        event["delta"]
        for event in found
        if event["type"] == "response.output_text.delta" and event["output_index"] == 1
    )
    assert text == "two words" == done[1]["content"][0]["text"]


def test_tools_of_responses_get_their_own_names_back():
    """Those in namespaces, and custom ones, whose input is no JSON."""
    tools = [
        {"type": "custom", "name": "patch"},
        {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "f"}]},
    ]
    calls = [
        {"id": "a", "function": {"name": "patch", "arguments": '{"input":"x"}'}},
        {"id": "b", "function": {"name": "ns__f", "arguments": "{}"}},
    ]
    maker = ResponseMaker({"model": "m", "tools": tools})
    custom, spaced = maker.whole(whole({"content": None, "tool_calls": calls}))["output"]
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "patch", "x")
    assert (spaced["type"], spaced["namespace"], spaced["name"]) == ("function_call", "ns", "f")
    chunks = [chunk(**call(0, '{"input":"x"}', name="patch", id="a")), chunk(finish="tool_calls")]
    kinds = [event["type"] for event in events(ResponseMaker({"tools": tools}), chunks)]
    assert "response.custom_tool_call_input.done" in kinds
    assert "response.function_call_arguments.delta" not in kinds


def test_response_that_was_cut():
    """Its status is incomplete, and says why."""
    response = ResponseMaker({}).whole(whole({"content": "a"}, "length"))
    assert (response["status"], response["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
