"""Logs as people have them: every form gives the requests that the plain one gives."""

import gzip
import json

import pytest
from doctor_examinations import WordPrompts, diagnose
from doctor_logs import interleaved, long_chat

from loadtest import text_file
from loadtest.doctor.examine import Question, examine
from loadtest.doctor.log_formats import BrokenLineError
from loadtest.doctor.log_requests import LogError, parse
from loadtest.doctor.wording import caveats

LINES = interleaved(long_chat(1, 2), 1)
BODIES = [json.loads(line) for line in LINES]
REQUESTS = [body.get("request", body) for body in BODIES]
TEXT = b"\n".join(LINES)
PLAIN = TEXT.decode()

FILES = {
    "crlf": TEXT.replace(b"\n", b"\r\n"),
    "utf-8 mark": b"\xef\xbb\xbf" + TEXT,
    "utf-16": PLAIN.encode("utf-16"),
    "utf-16 crlf": PLAIN.replace("\n", "\r\n").encode("utf-16"),
    "utf-16 without mark": PLAIN.encode("utf-16-le"),
    "utf-16 big": PLAIN.encode("utf-16-be"),
    "gzip": gzip.compress(TEXT),
    "gzip of utf-16": gzip.compress(PLAIN.encode("utf-16")),
    "array": json.dumps(BODIES).encode(),
    "indented array": json.dumps(BODIES, indent=2).encode(),
    "indented array, mark": b"\xef\xbb\xbf" + json.dumps(BODIES, indent=2).encode(),
    "array of lines": b"[\n" + TEXT.replace(b"\n", b",\n") + b"\n]\n",
    "indented objects": b"\n".join(json.dumps(body, indent=2).encode() for body in BODIES),
    "a line for each list": b"\n".join(json.dumps(body["messages"]).encode() for body in REQUESTS),
    "data": json.dumps({"data": BODIES, "meta": {}}).encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_a_log_is_read_however_it_is_stored(name, tmp_path, monkeypatch):
    """Encodings, compression, line ends and arrays change nothing."""
    monkeypatch.setattr(text_file, "CHUNK_BYTES", 1000)
    path = tmp_path / "log"
    path.write_bytes(FILES[name])
    facts = examine(Question(str(path), tmp_path), prompts=WordPrompts()).facts
    assert (facts.requests, facts.broken, facts.cut_off) == (len(LINES), 0, "")
    if name != "a line for each list":  # which has no tools
        assert facts.prompt_tokens == diagnose(LINES, tmp_path, "plain").facts.prompt_tokens


def said_by(record):
    """Roles and texts of all requests in a record."""
    return [
        [(one.role, one.text) for one in found.messages]
        for found in parse(json.dumps(record).encode())
        if hasattr(found, "messages")
    ]


USER = {"role": "user", "content": "one"}
TALK = [[("system", "be brief"), ("user", "one")]]
CALLED = [("system", "be brief"), ("user", "one"), ("assistant", ""), ("tool", "sunny"), ("user", "two")]
HUMAN = {"lc": 1, "type": "constructor", "id": ["a", "HumanMessage"], "kwargs": {"content": "one"}}
SYSTEM = {"lc": 1, "type": "constructor", "id": ["a", "SystemMessage"], "kwargs": {"content": "be brief"}}
ORDINARY = [{"role": "system", "content": "be brief"}, USER]

RECORDS = {
    "batch": {"custom_id": "1", "url": "/v1/chat/completions", "body": {"messages": ORDINARY}},
    "anthropic batch": {"custom_id": "1", "params": {"system": "be brief", "messages": [USER]}},
    "messages": {"system": [{"type": "text", "text": "be brief"}], "messages": [USER]},
    "responses": {"model": "m", "instructions": "be brief", "input": "one"},
    "responses, items": {
        "model": "m",
        "instructions": "be brief",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]}],
    },
    "langsmith": {"run_type": "llm", "inputs": {"messages": [[SYSTEM, HUMAN]]}, "session_id": "project"},
    "langsmith, openai": {"run_type": "llm", "inputs": {"messages": ORDINARY, "model": "m"}},
    "langchain, dumped": {
        "messages": [{"type": "system", "content": "be brief"}, {"type": "human", "data": {"content": "one"}}]
    },
    "langfuse": {"traceId": "t", "type": "GENERATION", "model": "m", "input": ORDINARY},
    "langfuse, wrapped": {"traceId": "t", "type": "GENERATION", "input": {"messages": ORDINARY}},
    "langfuse, as text": {"traceId": "t", "type": "GENERATION", "model": "m", "input": json.dumps(ORDINARY)},
    "langfuse, trace": {
        "id": "t",
        "input": "hello",
        "observations": [
            {"traceId": "t", "type": "SPAN", "input": {"q": 1}},
            {"traceId": "t", "type": "GENERATION", "input": ORDINARY},
        ],
    },
    "langfuse, table": {"id": "1", "name": "n", "input": json.dumps({"messages": ORDINARY}), "output": "x"},
}


@pytest.mark.parametrize("name", RECORDS)
def test_known_records_are_requests(name):
    """Batch files, three APIs, and the exports of tracing tools."""
    assert said_by(RECORDS[name]) == TALK


def test_a_shared_conversation_is_a_request_for_every_answer():
    """ShareGPT: each answer was asked for with all that came before."""
    turns = [("system", "be brief"), ("human", "one"), ("gpt", "ah"), ("human", "two"), ("gpt", "oh")]
    record = {"id": "c", "conversations": [{"from": who, "value": text} for who, text in turns]}
    assert said_by(record) == [
        *TALK,
        [("system", "be brief"), ("user", "one"), ("assistant", "ah"), ("user", "two")],
    ]
    assert {found.conversation for found in parse(json.dumps(record).encode())} == {"c"}


def test_tools_and_their_results_are_read_alike():
    """The same exchange in three APIs and in LangChain's words gives the same messages and tools."""
    arguments = '{"city": "Rome"}'
    function = {"name": "weather", "description": "d", "parameters": {"type": "object"}}
    called = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    records = [
        {
            "tools": [{"type": "function", "function": function}],
            "messages": [
                *ORDINARY,
                {"role": "assistant", "content": None, "tool_calls": [called]},
                {"role": "tool", "tool_call_id": "c", "content": "sunny"},
                {"role": "user", "content": "two"},
            ],
        },
        {
            "system": "be brief",
            "tools": [{"name": "weather", "description": "d", "input_schema": {"type": "object"}}],
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm"},
                        {"type": "tool_use", "id": "c", "name": "weather", "input": {"city": "Rome"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c", "content": "sunny"},
                        {"type": "text", "text": "two"},
                    ],
                },
            ],
        },
        {
            "model": "m",
            "instructions": "be brief",
            "tools": [{"type": "function", **function}],
            "input": [
                USER,
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "c", "name": "weather", "arguments": arguments},
                {"type": "function_call_output", "call_id": "c", "output": "sunny"},
                {"role": "user", "content": "two"},
            ],
        },
        {
            "run_type": "llm",
            "extra": {"invocation_params": {"tools": [{"type": "function", "function": function}]}},
            "inputs": {
                "messages": [
                    [
                        SYSTEM,
                        HUMAN,
                        {
                            "type": "ai",
                            "content": "",
                            "tool_calls": [{"id": "c", "name": "weather", "args": {"city": "Rome"}}],
                        },
                        {"type": "tool", "content": "sunny", "tool_call_id": "c"},
                        {"type": "human", "content": "two"},
                    ]
                ]
            },
        },
    ]
    found = [parse(json.dumps(record).encode())[0] for record in records]
    assert [[(one.role, one.text) for one in request.messages] for request in found] == [CALLED] * 4
    assert len({tuple(one.digest for one in request.messages) for request in found}) == 1
    assert [request.tools for request in found] == [found[0].tools] * 4


def test_what_sends_no_prompt_is_counted_and_not_broken(tmp_path):
    """Other endpoints of a batch file, steps of a trace that call no model."""
    others = [
        {"custom_id": "1", "url": "/v1/embeddings", "body": {"input": "x", "model": "e"}},
        {"custom_id": "2", "url": "/v1/embeddings", "body": {"input": "x", "model": "e"}},
        {"custom_id": "3", "response": {"body": {}}},
        {"run_type": "chain", "inputs": {"question": "x"}},
        {"traceId": "t", "type": "SPAN", "input": "x"},
        {"input": ["a"], "model": "m", "encoding_format": "base64"},
    ]
    lines = [json.dumps(one).encode() for one in others]
    diagnosis = diagnose([*lines, *LINES], tmp_path)
    assert diagnosis.facts.broken == 0
    assert diagnosis.facts.skipped == {
        "/embeddings": 2, "batch results": 1, "chain": 1, "SPAN": 1, "embeddings": 1,
    }  # fmt: skip
    assert "2 of /embeddings" in "".join(caveats(diagnosis))
    with pytest.raises(LogError, match=r"no chat or text completion in .*2 of /embeddings"):
        diagnose(lines, tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"id": 1, "name": "x"}, "found an object with id, name: expected messages, prompt"),
        ([1, 2], "found a list of 2, first a number"),
        ("text", "no valid JSON"),
        (5, "found a number"),
        ({"request": {"url": "x", "status": 200}}, "found an object with url, status"),
        ({"secret at home": 1}, "found an object of 1 fields"),
        ({"messages": [{"content": "x"}]}, "a message has no role"),
    ],
)
def test_a_line_that_is_no_request_is_described(line, said, tmp_path):
    """By its number, its type and the names of its fields; texts are not quoted."""
    with pytest.raises(LogError, match=f"no request in .* could be read: line 2: .*{said}") as error:
        diagnose([b"", json.dumps(line).encode()], tmp_path)
    assert "secret" not in str(error.value)


def test_lines_are_counted_where_records_span_them(tmp_path):
    """A broken element of an array is named by the line where it begins."""
    text = json.dumps([*BODIES[:2], {"id": 1}, BODIES[2]], indent=1)
    path = tmp_path / "log.json"
    path.write_text(text)
    facts = examine(Question(str(path), tmp_path), prompts=WordPrompts()).facts
    (number, _), expected = facts.first_broken[0], text[: text.index('"id": 1')].count("\n")
    assert (facts.requests, number) == (3, expected)


@pytest.mark.parametrize(("start", "said"), [(b"PK\x03\x04", "a zip archive"), (b"PAR1", "a Parquet file")])
def test_other_formats_are_named(start, said, tmp_path):
    """What is no text at all is named, with the way out."""
    (tmp_path / "log").write_bytes(start + bytes(100))
    with pytest.raises(LogError, match=f"it is {said}: unpack or export it as JSON lines"):
        examine(Question(str(tmp_path / "log"), tmp_path), prompts=WordPrompts())


def test_a_log_with_the_newest_first_is_noticed(tmp_path):
    """Tracing tools export so; the figures would be those of time running backwards."""
    lines = [
        json.dumps({"startTime": f"2026-01-01T00:00:{second:02}Z", "request": body}).encode()
        for second, body in enumerate(BODIES)
    ]
    assert not diagnose(lines, tmp_path).facts.newest_first
    backwards = diagnose(lines[::-1], tmp_path)
    assert backwards.facts.newest_first
    assert "sort the log by time" in "".join(caveats(backwards))


def test_depth_and_size_of_a_record_are_bounded():
    """Nothing that a log holds makes the doctor work without end."""
    nested = {"messages": [USER]}
    for _ in range(10):
        nested = {"request": nested}
    with pytest.raises(BrokenLineError):
        said_by(nested)
    turns = [{"from": who, "value": "x"} for who in ("human", "gpt")] * 1001
    with pytest.raises(BrokenLineError, match="more than 1,000 answers"):
        said_by({"conversations": turns})
