"""JSON that clients may send, as text, so that what is no JSON can be written, too: hypothesis strategies.

A body is one that engines take, some of whose fields have been replaced by something hostile, and some of
whose bytes may have been changed afterwards.
"""

import json
from collections.abc import Iterable, Mapping

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Text = SearchStrategy[str]

ODD_VALUES = (
    *("null", "true", "false", "0", "-0", "1", "-1", '""', "[]", "{}", "[[]]", "[null]", "[{}]", '[""]'),
    *("1e308", "-1e308", "1e-400", "1E5", "0.1", "1.0", '"NaN"', '"1"', '"true"', '"__class__"'),
    *(str(2**31), str(2**53 + 1), str(-(2**63)), str(2**64), "9" * 400, "0." + "3" * 5_000),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\ufeff"', '"a/b@c"', '"../../etc/passwd"'),
    *('"\U0001f680"', '"e\u0301\u0301"', '"\u202e"', '"<|im_start|>"', '"<|im_end|>\\n"', '"{{ 7 * 7 }}"'),
    *('{"":1,"":2}', '{"a":{"a":{"a":1}},"a":[]}', '{"__proto__":{}}', '"tool"', '"user"', '"assistant"'),
)
NO_JSON = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01", "+1", ".5", "1.", "0x10", "9" * 5_000),
    *(
        '"\ud800"',
        '"\0"',
        '"\\x"',
        '"\n"',
        "'a'",
        "undefined",
        "None",
        "//x\n1",
        "[1,]",
        '{"a":1,}',
        "[1 2]",
        "",
    ),
)
PIECES = (
    "a",
    " ",
    "7",
    "the ",
    "\\n",
    "\\u00e9",
    "\u6771",
    "\\\\",
    "-",
    "'s",
    "e\u0301",
    "<|im_end|>",
)
DEPTHS = (2, 50, 300, 5_000, 100_000)
DEEPEST = (900, 1_020)
"""Between these lies what parsers allow."""
LENGTHS = (16, 63, 64, 65, 127, 128, 129, 256, 257, 1_000, 8_192, 33_000, 70_000, 300_000)


def listed(inner: Text, least: int = 0, most: int = 4) -> Text:
    """A list."""
    return st.lists(inner, min_size=least, max_size=most).map(lambda values: "[" + ",".join(values) + "]")


def written(fields: Iterable[tuple[str, str]]) -> str:
    """An object, of names and values as JSON."""
    return "{" + ",".join(f"{name}:{value}" for name, value in fields) + "}"


DIGITS = st.integers(0, 8)

STRING = st.one_of(
    st.text(max_size=20).map(json.dumps),
    st.text(max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.builds(lambda piece, count: f'"{piece * count}"', st.sampled_from(PIECES), st.sampled_from(LENGTHS)),
)
NUMBER = st.one_of(st.integers(-3, 3000).map(str), st.integers().map(str), st.floats().map(json.dumps))
NESTED = st.builds(
    lambda pair, depth, inner, is_open: pair[0] * depth + inner + pair[1] * (depth - is_open),
    st.sampled_from((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]"), ('{"content":[', "]}"))),
    st.sampled_from(DEPTHS) | st.integers(*DEEPEST) | st.integers(*DEEPEST),
    st.sampled_from(("1", "", "null", '"a"')),
    st.sampled_from((0, 0, 0, 1)),
)
MANY = st.builds(
    lambda piece, count: "[" + ",".join([piece] * (count // 8)) + "]",
    st.sampled_from(("0", "[]", "{}", '"a"', "null", '{"type":"text","text":"a"}', '{"role":"user"}')),
    st.sampled_from(LENGTHS),
) | st.sampled_from(LENGTHS).map(lambda count: written((f'"{key:x}"', "0") for key in range(count // 8)))
SIMPLE = st.sampled_from(ODD_VALUES) | STRING | NUMBER
SMALL = st.recursive(
    SIMPLE,
    lambda inner: listed(inner, most=3) | st.lists(st.tuples(STRING, inner), max_size=3).map(written),
    max_leaves=4,
)
HOSTILE = st.one_of(
    st.sampled_from(NO_JSON), SIMPLE, SIMPLE, SIMPLE, SIMPLE, SIMPLE, SMALL, SMALL, SMALL, SMALL, NESTED, MANY
)
"""A value of any kind."""


def objects(valid: Mapping[str, Text], required: tuple[str, ...], numbers: tuple[int, ...]) -> Text:
    """An object of valid fields, of which one of these ``numbers`` is hostile, may be there twice or lack."""
    names = st.sampled_from(sorted(valid))
    chosen = st.lists(names, max_size=8)
    how_many, hostile_field = st.sampled_from(numbers), st.tuples(names, HOSTILE)

    @st.composite
    def draw_object(draw: st.DrawFn) -> str:
        fields = [(name, draw(valid[name])) for name in dict.fromkeys((*required, *draw(chosen)))]
        for _ in range(draw(how_many)):
            name, value = draw(hostile_field)
            if draw(DIGITS):
                fields = [field for field in fields if field[0] != name]
            fields.append((name, value))
        if draw(DIGITS) == 8 and draw(DIGITS) > 4:
            del fields[draw(DIGITS) % len(fields)]
        return written((json.dumps(name), value) for name, value in fields)

    return draw_object()


def just(*values: object) -> Text:
    """One of these, as JSON."""
    return st.sampled_from([json.dumps(value) for value in values])


FUNCTION = {
    "name": "f",
    "description": "d",
    "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
}
TOOL_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
MOSTLY_ONE = (0, 1, 1, 1, 1, 2, 3)
COMMON: Mapping[str, Text] = {
    "model": st.just('"tiny"'),
    "max_tokens": st.integers(1, 50).map(str),
    "stream": just(True, False, None),
    "stream_options": just({"include_usage": True}, {"include_usage": False}, None, {}),
    "n": just(1, 2),
    "temperature": just(0, 0.7, None),
    "stop": just("a", ["a", "b"], None),
    "seed": just(1, None),
    "user": STRING,
    "cache_salt": just("salt", None),
    "logit_bias": just({"1": 0.5}, None),
    "priority": just(0, 1),
    "vllm_xargs": just({"a": 1}, None),
    "kv_transfer_params": just(None),
    "ec_transfer_params": just(None),
    "truncate_prompt_tokens": just(10, -1, None),
    "add_special_tokens": just(True, False),
    "response_format": just({"type": "json_object"}, {"type": "text"}),
    "unknown": HOSTILE,
}
PART = objects(
    {"type": just("text", "image_url", "input_audio"), "text": STRING, "image_url": just({"url": "data:,"})},
    ("type", "text"),
    (0, 0, 0, 1),
)
MESSAGE = objects(
    {
        "role": just("user", "user", "system", "assistant", "tool", "developer"),
        "content": st.one_of(STRING, listed(PART), just(None, "")),
        "name": just("n"),
        "tool_calls": just([TOOL_CALL], None, []),
        "tool_call_id": just("c"),
        "reasoning": STRING,
    },
    ("role", "content"),
    (0, 0, 0, 0, 1),
)
CHAT = objects(
    {
        **COMMON,
        "messages": listed(MESSAGE, 1, 5),
        "max_completion_tokens": just(1),
        "tools": just([{"type": "function", "function": FUNCTION}], None, []),
        "tool_choice": just("auto", "none", {"type": "function", "function": {"name": "f"}}),
        "documents": just([{"title": "t", "text": "x"}], None),
        "chat_template": just(None, "{{ messages }}"),
        "chat_template_kwargs": just({"enable_thinking": False}, {"add_generation_prompt": False}, None),
        "add_generation_prompt": just(True, False),
        "continue_final_message": just(True, False),
        "mm_processor_kwargs": just(None, {}),
        "prompt": STRING,
    },
    ("model", "messages"),
    MOSTLY_ONE,
)
COMPLETION = objects(
    {
        **COMMON,
        "prompt": st.one_of(
            STRING,
            listed(STRING),
            listed(st.integers(0, 400).map(str), most=40),
            listed(listed(st.integers(0, 400).map(str), most=40)),
        ),
        "prompt_embeds": just(None, "AAAA"),
        "echo": just(True, False),
        "suffix": just("x", None),
        "logprobs": just(1, None),
        "best_of": just(1, 2),
        "messages": just([{"role": "user", "content": "x"}], None, 1),
    },
    ("model", "prompt"),
    MOSTLY_ONE,
)
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1")


DAMAGED = st.sampled_from((0, 0, 0, 0, 0, 1))
ENCODING = st.sampled_from(ENCODINGS)
PLACE = st.floats(0, 1)
SHORT = st.binary(max_size=8)
PADDING = st.sampled_from((b" " * 5_000, b"\n", b"\0", b"\xef\xbb\xbf", b"\t\r\n"))


@st.composite
def bodies(draw: st.DrawFn, text: Text) -> bytes:
    """The bytes of a body; one of six is damaged."""
    written = draw(text)
    if not draw(DAMAGED):
        return written.encode("utf-8", "surrogatepass")
    encoding = draw(ENCODING)
    body = written.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    at = int(draw(PLACE) * len(body))
    match draw(DIGITS):
        case 0 | 1 | 2:
            return body[:at]
        case 3:
            return body[:at] + draw(SHORT) + body[at:]
        case 4:
            return body[:at] + body[at + len(draw(SHORT)) :]
        case 5:
            return body + body[at:]
        case 6:
            return draw(PADDING) + body
    return body
