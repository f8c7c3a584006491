"""Events cut out of a byte stream, and what the router reads in them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http import sse
from router.http.sse import (
    EventFilter,
    Usage,
    error_status,
    first_event,
    parse_usage,
    usage_of_reply,
    without_comments,
)

lines = st.sampled_from(
    [b'data: {"a":1}', b"data: [DONE]", b": ping", b"event: x", b"data: \xe4\xb8\x9c", b"id:"]
)
ends = st.sampled_from([b"\n\n", b"\r\n\r\n"])


@st.composite
def streams(draw):
    """Whole events with one kind of line end, and a rest that may be cut off."""
    end = draw(ends)
    bodies = draw(
        st.lists(st.lists(lines, min_size=1, max_size=3).map(end[: len(end) // 2].join), max_size=6)
    )
    return [body + end for body in bodies], draw(st.sampled_from([b"", b"data: cut", b"data: cut\n", b"\r"]))


@given(streams(), st.data())
def test_any_split_gives_the_same_events(stream, data):
    """However the network cuts the bytes, events come out whole and in order, and the rest is kept."""
    events, rest = stream
    whole = b"".join(events) + rest
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    splitter, got = EventFilter(keep_usage=True), []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        got += splitter.split(whole[start:end])
    assert got == events
    assert splitter._rest == rest


def test_line_ends_of_both_kinds_in_one_chunk():
    """A chunk with both kinds of line ends is not taken for one event."""
    assert EventFilter(keep_usage=True).split(b"data: 1\r\n\r\ndata: [DONE]\n\n") == [
        b"data: 1\r\n\r\n",
        b"data: [DONE]\n\n",
    ]


def test_event_without_end_is_passed_on_in_pieces(monkeypatch):
    """Memory for one event is bounded; its bytes are not lost."""
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10)
    splitter = EventFilter(keep_usage=True)
    assert splitter.split(b"data: 1234") == []
    assert splitter.split(b"5") == [b"data: 12345"]
    assert splitter.split(b"6\n\n") == [b"6\n\n"]


def test_first_event_is_none_until_it_is_whole():
    """The dispatcher waits for the whole event before it judges."""
    assert first_event(b"data: x\n") is None
    assert first_event(b"data: x\n\ndata: y") == b"data: x\n\n"
    assert first_event(b"data: x\r\n\r\n") == b"data: x\r\n\r\n"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    ("data", "rest"),
    [
        (b"", b""),
        (b": keep-alive||", b""),
        (b": keep-alive|", b""),
        (b": keep-al", b": keep-al"),
        (b":|:||: x||data: {}||: y||", b"data: {}||: y||"),
        (b": x|data: {}||", b"data: {}||"),
        (b"data: x|: y||", b"data: x|: y||"),
    ],
)
def test_comments_before_the_first_event_are_left_out(data, rest, end):
    """Whole lines only: what may still become anything stays."""
    assert without_comments(data.replace(b"|", end)) == rest.replace(b"|", end)


@pytest.mark.parametrize("size", [1, 5, 100])
def test_end_of_a_stream_is_seen_behind_a_comment(size):
    """A comment may share an event with what it stands before."""
    data = event(choices=[]) + b": almost\n" + sse.DONE + b"\n\n: bye\n\n"
    events = EventFilter(keep_usage=False)
    passed = [events.feed(data[start : start + size]) for start in range(0, len(data), size)]
    assert b"".join(passed) == data
    assert events.done


def event(**fields):
    """One event."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def test_usage_event_is_found_and_holds_nothing_else():
    """The last event of a stream that was asked for usage."""
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    found, nothing_else = parse_usage(event(id="x", choices=[], usage=usage))
    assert nothing_else
    assert isinstance(found, Usage)
    assert (found.prompt_tokens, found.completion_tokens, found.cached_tokens) == (9, 2, 4)


def test_usage_beside_text_is_found_and_kept():
    """With continuous usage every event carries both."""
    found, nothing_else = parse_usage(
        event(choices=[{"delta": {"content": "a"}}], usage={"prompt_tokens": 9})
    )
    assert found is not None
    assert found.cached_tokens is None
    assert not nothing_else


def test_forced_usage_is_kept():
    """An engine that puts usage beside text, though it was not asked to, would send its last event anyway."""
    usage = {"prompt_tokens": 9}
    stream = [
        event(choices=[{"delta": {}}], usage=usage),
        event(choices=[], usage=usage),
        b"data: [DONE]\n\n",
    ]
    for events, passed in ((stream, stream), (stream[1:], stream[2:])):
        assert EventFilter(keep_usage=False).feed(b"".join(events)) == b"".join(passed)


@pytest.mark.parametrize(
    "data",
    [
        event(choices=[{"delta": {"content": '"usage"'}}]),
        event(choices=[], usage=None),
        b'data: {"usage":null}\n\n',
        b'data: {"usage": 5}\n\n',
        b'data: {"usage": {"prompt_tokens": "x"}}\n\n',
        b'data: "usage"\n\n',
        b'"usage"\n\n',
        b'data: {"usage": {"prompt_tokens": 1}, "choices": ["\xff"]}\n\n',
        b'data: {"usage": ' + b"[" * 100_000 + b"\n\n",
        b"data: [DONE]\n\n",
        b"",
    ],
)
def test_events_without_usage(data):
    """Text about usage, broken events and other JSON are passed on as they are."""
    assert parse_usage(data) == (None, False)


@given(st.binary(max_size=40))
def test_no_bytes_break_the_reading(data):
    """An engine's event is never a reason to fail."""
    for part in (data, b'data: {"usage":' + data, b'data: {"error":' + data):
        parse_usage(part)
        error_status(part)
        usage_of_reply(part)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (event(error={"message": "m", "code": 400}), 400),
        (event(error={"message": "m", "code": 503}), 503),
        (event(error={"message": "m", "code": "model_not_found"}), 500),
        (event(error={"message": "m", "code": 7}), 500),
        (event(error="text"), 500),
        (event(error=None, choices=[]), None),
        (event(error={"a": 1}, choices=[{"delta": {}}]), None),
        (event(choices=[{"delta": {"content": '"error"'}}]), None),
        (b'data: {"error": "\xff"}\n\n', None),
        (b"data: [DONE]\n\n", None),
    ],
)
def test_error_events_are_told_from_text(data, status):
    """Only an event that is nothing but an error counts as one; without a status it is the engine's."""
    assert error_status(data) == status


def test_usage_of_a_whole_reply():
    """Replies that are not streams carry usage beside their choices."""
    found = usage_of_reply(json.dumps({"choices": [{}], "usage": {"prompt_tokens": 3}}).encode())
    assert found is not None
    assert found.prompt_tokens == 3
    assert usage_of_reply(b"no json") is None
    assert usage_of_reply(b"{}") is None
    assert usage_of_reply(b'{"usage": "\xff"}') is None
