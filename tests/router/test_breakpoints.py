"""``cache_control`` of Messages: where breakpoints stand, what is counted there, and what is refused."""

import json

import pytest

from cluster.apis.breakpoints import Breakpoint, breakpoints_of, split_usage
from cluster.apis.messages import chat_of_messages
from cluster.prompts.tokenizer import PromptTokenizer
from tests.router.fake_engine import stream, whole

FIVE, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h", "scope": "global"}
LONG = "Tell me about prefix caching, please. "
ROOT = b"12345678"


def text(content, **fields):
    """A block of text."""
    return {"type": "text", "text": content, **fields}


def user(*blocks):
    """What a user says."""
    return {"role": "user", "content": list(blocks)}


SYSTEM = [
    text("You answer questions of all kinds. ", cache_control=HOUR),
    text("Today is Tuesday, it rains."),
]
ANSWER = {
    "role": "assistant",
    "content": [
        text("I will look it up for you."),
        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    ],
}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [text("It has been found in the book.")]}
TOOLS = [{"name": "f", "input_schema": {"type": "object"}, "cache_control": HOUR}]
PLACES = {
    "text": ([user(text("one " * 30), text("two words. " * 9, cache_control=FIVE))], [], "two words."),
    "earlier": ([user(text("a question is asked here", cache_control=FIVE))], [ANSWER], "is asked here"),
    "repeated": ([user(text(LONG * 4, cache_control=FIVE))], [ANSWER, user(text(LONG))], LONG),
    "result": ([user(text(LONG)), ANSWER, user({**RESULT, "cache_control": FIVE})], [], "in the book."),
    "short": ([user(text(LONG), text("user", cache_control=FIVE))], [], LONG),
    "no text": (
        [
            user(text(LONG)),
            {**ANSWER, "content": [*ANSWER["content"][:1], ANSWER["content"][1] | {"cache_control": FIVE}]},
        ],
        [user(RESULT)],
        "up for you.",
    ),
}
"""Messages before a breakpoint, those behind it, and how what stands before it ends."""


def marks_of(tokenizer, body):
    """Tokens before each breakpoint."""
    return tokenizer.keyed_chat(chat_of_messages(body), ROOT, 4, breakpoints_of(body)).finish().marks


@pytest.mark.parametrize("place", PLACES)
def test_breakpoint_stands_behind_the_text_of_its_block(tiny_model, place):
    """Whatever follows; behind the text before where a block has none, or one too short to be found."""
    before, after, end = PLACES[place]
    tokenizer = PromptTokenizer(tiny_model)
    body = {"messages": [*before, *after]}
    [tokens] = marks_of(tokenizer, body)
    ids = tokenizer.chat(chat_of_messages(body)).token_ids
    assert tokenizer.decode(ids[:tokens]).endswith(end.strip())
    shorter = tokenizer.chat(chat_of_messages({"messages": before})).token_ids
    assert ids[:tokens] == shorter[:tokens]


def test_breakpoints_of_tools_and_system(tiny_model):
    """Behind a block of the system prompt, and behind all before the first user message."""
    tokenizer = PromptTokenizer(tiny_model)
    body = {"system": [*SYSTEM, text("And now begin. ", cache_control=FIVE)], "messages": [user(text(LONG))]}
    marks = marks_of(tokenizer, {**body, "tools": TOOLS})
    prompt = tokenizer.chat(chat_of_messages({**body, "tools": TOOLS}))
    assert (marks[0], marks[2]) == (prompt.opening_tokens, prompt.opening_tokens)
    assert tokenizer.decode(prompt.token_ids[: marks[1]]).endswith("of all kinds.")


def test_breakpoint_of_the_whole_request(tiny_model):
    """It stands at the end of the last message; with none before it that has a text, at the opening's end."""
    tokenizer = PromptTokenizer(tiny_model)
    body = {"messages": [user(text(LONG, cache_control=FIVE), *[text(f"{LONG} {n}") for n in range(30)])]}
    first, last = marks_of(tokenizer, {**body, "cache_control": FIVE})
    assert 0 < first < last < len(tokenizer.chat(chat_of_messages(body)).token_ids)
    short = {"messages": [user(text("Hi"))], "cache_control": FIVE}
    assert marks_of(tokenizer, short) == [tokenizer.chat(chat_of_messages(short)).opening_tokens]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"messages": [user(*[text("a", cache_control=FIVE)] * 5)]},
            "A maximum of 4 blocks with cache_control",
        ),
        ({"cache_control": FIVE, "messages": [user(*[text("a", cache_control=FIVE)] * 4)]}, "Found 5."),
        (
            {"tools": [{**TOOLS[0], "cache_control": FIVE}], "system": SYSTEM},
            "system.0.cache_control.ttl: a ttl",
        ),
        (
            {"messages": [user(text("a", cache_control={"type": "x"}))]},
            "messages.0.content.0.cache_control: ",
        ),
        ({"cache_control": {"type": "ephemeral", "ttl": "1d"}}, "cache_control: must be"),
        ({"cache_control": 1}, "cache_control: must be"),
        ({"cache_control": {"type": "ephemeral", "ttl": [1]}}, "cache_control: must be"),
    ],
)
async def test_breakpoints_that_are_not_allowed(router, engines, fields, message):
    """Are refused in Anthropic's words."""
    body = {"model": "m", "max_tokens": 8, "messages": [user(text(LONG))], **fields}
    async with router.post(body, "/v1/messages") as response:
        assert response.status == 400
        assert message in (await response.json())["error"]["message"]
    assert not any(engine.exchanges for engine in engines)


@pytest.mark.parametrize(
    ("found", "added", "marks", "five", "hour"),
    [
        (0, 2000, [Breakpoint("5m", b"", 1200)], 1200, 0),
        (0, 2000, [Breakpoint("1h", b"", 1200), Breakpoint("5m", b"", 1900)], 700, 1200),
        (1200, 800, [Breakpoint("1h", b"", 1200), Breakpoint("5m", b"", 1900)], 700, 0),
        (1600, 400, [Breakpoint("1h", b"", 1200), Breakpoint("1h", b"", 1900)], 0, 300),
        (1984, 16, [Breakpoint("1h", b"", 1200), Breakpoint("5m", b"", 1900)], 0, 0),
        (0, 1792, [Breakpoint("5m", b"", 1900)], 1792, 0),
        (0, 2000, [], 0, 0),
    ],
)
def test_counts_are_the_engines_own(found, added, marks, five, hour):
    """Of what it added to its cache that which stands before a breakpoint; what it found stays as it is."""
    usage = {"input_tokens": 7, "cache_read_input_tokens": found, "cache_creation_input_tokens": added}
    split = split_usage({**usage, "output_tokens": 3}, marks)
    assert split["cache_creation"] == {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour}
    assert split["cache_creation_input_tokens"] == five + hour
    assert split["cache_read_input_tokens"] == found
    assert sum(split[name] for name in usage) == 7 + found + added


@pytest.mark.parametrize("known", [{}, {"cache_read_input_tokens": 5}, {"cache_creation_input_tokens": 5}])
def test_counts_that_an_engine_does_not_report_are_not_made_up(known):
    """Also those on the first event of a stream."""
    usage = {"input_tokens": 7, "output_tokens": 3, **known}
    assert split_usage(usage, [Breakpoint("5m", b"", 1200)]) == usage


@pytest.mark.parametrize("streamed", [False, True])
async def test_answers_and_what_is_remembered(router, engines, tiny_model, streamed):
    """The counts of a message, whole and streamed; and each breakpoint with its key, length and reads."""
    body = {
        "model": "m",
        "max_tokens": 8,
        "stream": streamed,
        "system": [text(LONG * 200, cache_control=HOUR), text("Today.", cache_control=FIVE)],
        "messages": [user(text(LONG * 40, cache_control=FIVE), text("Hello!"))],
    }
    _, opening, last = marks_of(PromptTokenizer(tiny_model), body)
    total = len(PromptTokenizer(tiny_model).chat(chat_of_messages(body)).token_ids)
    for found in (0, opening // 4 * 4):
        usage = {
            "input_tokens": 1,
            "cache_read_input_tokens": found,
            "cache_creation_input_tokens": total - found - 1,
            "output_tokens": 2,
        }
        begun, changed = (
            {"type": "message_start", "message": {"usage": {"input_tokens": total}}},
            {"usage": usage},
        )
        events = [
            b"event: %b\ndata: %b\n\n" % (kind, json.dumps(data).encode())
            for kind, data in ((b"message_start", begun), (b"message_delta", changed), (b"message_stop", {}))
        ]
        for engine in engines:
            engine.otherwise = stream(*events) if streamed else whole(json.dumps({"usage": usage}).encode())
        async with router.post(body, "/v1/messages") as response:
            answer = await response.read()
        if streamed:
            first, second, _, _ = answer.split(b"\n\n")
            assert json.loads(first.partition(b"data: ")[2]) == begun
            answer = second.partition(b"data: ")[2]
        counted = json.loads(answer)["usage"]
        assert counted["cache_read_input_tokens"] == found
        assert counted["input_tokens"] == total - last
        record = (await router.get("/admin/requests"))[1]["requests"][0]
        assert (record["prompt_tokens"], record["delivered_tokens"]) == (total, found)
    assert counted["cache_creation"]["ephemeral_5m_input_tokens"] == last - found
    known = {one["tokens"]: one for one in (await router.get("/admin/prefixes"))[1]["breakpoints"]}
    assert [(known[tokens]["ttl"], known[tokens]["reads"]) for tokens in (opening, last)] == [
        ("5m", 1),
        ("5m", 0),
    ]
    assert sum(one["reads"] for one in known.values()) == 2
    await router.drained()
