"""What the doctor reads, and what it does with what it cannot read."""

import gzip
import io
import json
from types import SimpleNamespace

import pytest
from doctor_examinations import WordPrompts, diagnose
from doctor_logs import interleaved, long_chat

from loadtest import text_file
from loadtest.doctor import log_requests
from loadtest.doctor.examine import Question, examine
from loadtest.doctor.log_requests import BrokenLineError, LogError, parse

LINES = interleaved(long_chat(1, 4), 1)


def test_broken_lines_are_counted_and_never_fatal(tmp_path):
    """Lines that are no requests are left out; the first are named by number and reason, unquoted."""
    broken = [
        b"{",
        b"[]",
        b'{"name": "secret"}',
        b'{"messages": []}',
        b'{"messages": [{"content": "secret"}]}',
        b"\xff",
    ]
    facts = diagnose([*broken, b"", *LINES], tmp_path).facts
    assert (facts.requests, facts.broken, facts.lines) == (len(LINES), 6, len(LINES) + 6)
    assert [number for number, _ in facts.first_broken] == [1, 2, 3, 4, 5]
    assert "secret" not in str(facts.first_broken)


@pytest.mark.parametrize("lines", [[], [b"", b""], [b"nonsense"]])
def test_a_log_without_requests_is_an_error(lines, tmp_path):
    """There is nothing to say about an empty log, so nothing is said."""
    with pytest.raises(LogError, match=r"is empty|line 1: no valid JSON"):
        diagnose(lines, tmp_path)


def test_a_missing_log_is_an_error(tmp_path):
    """The message names the file."""
    with pytest.raises(LogError, match=r"cannot read .*missing.jsonl"):
        examine(Question(str(tmp_path / "missing.jsonl"), tmp_path), prompts=WordPrompts())


def test_a_gzipped_log_and_standard_input_are_read_alike(tmp_path, monkeypatch):
    """The same lines give the same figures, however they come."""
    plain = diagnose(LINES, tmp_path)
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(LINES)))
    zipped = examine(Question(str(path), tmp_path), prompts=WordPrompts())
    monkeypatch.setattr(
        text_file.sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(b"\n".join(LINES))))
    )
    piped = examine(Question("-", tmp_path), prompts=WordPrompts())
    assert plain.hit_rates == zipped.hit_rates == piped.hit_rates
    assert plain.facts.prompt_tokens == zipped.facts.prompt_tokens == piped.facts.prompt_tokens


def test_a_gzipped_log_that_breaks_off_is_reported_as_far_as_it_goes(tmp_path):
    """What was read counts, and the report says that there was more."""
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(LINES * 4), 0)[:-8000])
    facts = examine(Question(str(path), tmp_path), prompts=WordPrompts()).facts
    assert facts.requests > 0
    assert facts.cut_off


def test_a_line_that_is_too_long_is_broken(tmp_path, monkeypatch):
    """It is skipped without being held in memory, and what follows is read."""
    monkeypatch.setattr(log_requests, "MAX_LINE_BYTES", 50_000)
    facts = diagnose([b"x" * 200_000, *LINES], tmp_path).facts
    assert (facts.broken, facts.requests) == (1, len(LINES))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda body: body,
        lambda body: {"request": body, "timestamp": 1, "conversation_id": "c"},
        lambda body: {"body": json.dumps(body)},
        lambda body: {"request": {"body": body}},
    ],
)
def test_wrapped_requests_are_unwrapped(wrap):
    """Common ways of logging a request are understood."""
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "one"}]}]}
    (request,) = parse(json.dumps(wrap(body)).encode())
    assert [(one.role, one.text) for one in request.messages] == [("user", "one")]


def test_the_conversation_is_taken_from_the_log():
    """Common names, on the line, in the request or in its metadata."""
    messages = [{"role": "user", "content": "one"}]
    for line in (
        {"session_id": "a", "request": {"messages": messages}},
        {"messages": messages, "metadata": {"conversation_id": "a"}},
        {"messages": messages, "conversation": {"id": "a"}},
    ):
        assert parse(json.dumps(line).encode())[0].conversation == "a"


def test_text_completions_and_images():
    """Each prompt is a request; a part that is no text becomes a marker that stands for its bytes."""
    assert [one.messages[0].text for one in parse(b'{"prompt": ["a", "b"]}')] == ["a", "b"]
    with pytest.raises(BrokenLineError):
        parse(b'{"prompt": [1, 2]}')
    part = {"type": "image_url", "image_url": {"url": "data:secret"}}
    (request,) = parse(json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode())
    assert request.images == 1
    assert "secret" not in request.messages[0].text
