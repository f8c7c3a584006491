"""What clients may send, and what goes on to engines."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InvalidRequestError
from router.requests.schema import parse_chat, parse_completion, truth

MESSAGES = [{"role": "user", "content": "hi"}]
FIELDS = [
    *("model", "messages", "prompt", "stream", "stream_options", "cache_salt", "truncate_prompt_tokens"),
    *("kv_transfer_params", "ec_transfer_params", "vllm_xargs", "tools", "chat_template"),
    *("chat_template_kwargs", "prompt_embeds", "suffix", "add_special_tokens"),
    *("role", "content", "include_usage"),
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def chat(**fields):
    """The bytes of a chat request."""
    return json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode()


def completion(**fields):
    """The bytes of a completion request."""
    return json.dumps({"model": "m", **fields}).encode()


@pytest.mark.parametrize("parse", [parse_chat, parse_completion])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"model": "m",}', "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_body_that_is_no_object(parse, raw, message):
    """What is no JSON object is refused, and no field is blamed."""
    with pytest.raises(InvalidRequestError, match=message) as caught:
        parse(raw)
    assert (caught.value.status, caught.value.param) == (400, None)


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (chat(model=5), "model"),
        (chat(cache_salt=7), "cache_salt"),
        (chat(cache_salt=""), "cache_salt"),
        (chat(cache_salt="\ud800"), "cache_salt"),
        (chat(kv_transfer_params={"prompt_token_ids": [1]}), "kv_transfer_params"),
        (chat(kv_transfer_params=False), "kv_transfer_params"),
        (chat(ec_transfer_params={}), "ec_transfer_params"),
        (chat(vllm_xargs={"kv_transfer_params": "{}"}), "vllm_xargs.kv_transfer_params"),
        (chat(temperature=float("nan"), kv_transfer_params={}), "kv_transfer_params"),
        (chat(messages=None, kv_transfer_params={}), "kv_transfer_params"),
    ],
)
def test_what_no_client_may_send_is_refused_by_name(raw, param):
    """The field is named in `param` and in the message, also where the body is odd in other ways."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat(raw)
    assert caught.value.param == param
    assert caught.value.param in caught.value.message
    assert caught.value.body()["error"]["type"] == "invalid_request_error"


LEFT_TO_THE_ENGINE = [
    *(b"{}", b'{"model": "m"}', chat(messages=None), chat(messages="hi"), chat(messages=[])),
    *(chat(messages=["hi"]), chat(messages=[{"content": "hi"}]), chat(messages=[{"role": "r" * 65}])),
    *(chat(messages=[{"role": 1, "content": "hi"}]), chat(messages=[{"role": "user", "content": 5}])),
    *(chat(messages=[{"role": "user", "content": [5]}]), chat(tools={}), chat(tools=["f"])),
    *(chat(chat_template_kwargs=[]), chat(temperature=float("nan")), chat(temperature=float("-inf"))),
    *(chat(user="\ud800"), chat(messages=[{"role": "user", "content": "\udc00\ud800"}])),
    *(chat().replace(b"hi", b"\xed\xa0\x80"), chat(x=1.5).replace(b"1.5", b"1e999")),
]
PROMPTS_LEFT_TO_THE_ENGINE = [
    *(None, 5, {}, [], [[]], [[1], []], [1, "a"], ["a", [1]], [1.5], [1.0, 2.0], [True], [None], [-1]),
    *([2**32], [2**80], [[1, -1]], [["a"]]),
]


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
@pytest.mark.parametrize(
    ("parse", "raw"),
    [
        *((parse_chat, raw) for raw in LEFT_TO_THE_ENGINE),
        *((parse_completion, completion(prompt=prompt)) for prompt in PROMPTS_LEFT_TO_THE_ENGINE),
    ],
)
def test_what_only_an_engine_can_judge_is_left_to_it(parse, raw, fields):
    """It may take more than is understood here, and its own words are best. The prompt is not read."""
    body = {**json.loads(raw), **fields}
    raw = json.dumps(body).encode() if fields else raw
    call = parse(raw).isolated("tenant")
    assert not call.is_readable
    assert not call.tokenisable
    sent = json.loads(call.sealed().upstream_body())
    assert sent.pop("cache_salt") == call.cache_salt
    assert sent.pop("stream_options", None) == ({"include_usage": True} if fields else None)
    assert repr(sent) == repr(body)  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("value", "stream"),
    [
        *((value, True) for value in (True, 1, 1.0, "1", "true", "True", "YES", "y", "t", "on")),
        *((value, False) for value in (None, False, 0, -0.0, "0", "off", "no", "f", "false", "n")),
        *((value, False) for value in (2, "", "2", " on", [], [1], {}, 10**30, "maybe")),  # refused by vLLM
    ],
)
def test_flags_are_read_as_by_vllm(value, stream):
    """What its validation makes of a flag decides whether there will be a stream."""
    call = parse_chat(chat(stream=value))
    assert (call.stream, call.tokenisable) == (stream, True)
    asked = parse_chat(chat(stream=True, stream_options={"include_usage": value}))
    left_alone = asked.upstream_body() == asked.raw
    assert asked.wants_usage == left_alone == (stream or truth(value) is None)


@pytest.mark.parametrize("options", [[], False, 0, "", "x", {"include_usage": []}])
def test_options_that_vllm_refuses_stay_as_they_are(options):
    """Else it would not refuse them any more."""
    call = parse_chat(chat(stream=True, stream_options=options))
    assert call.upstream_body() == call.raw


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"])
def test_other_encodings_are_read_as_python_reads_them(encoding):
    """What goes upstream is the same in UTF-8, and its prompt is read."""
    raw = chat(messages=[{"role": "user", "content": "é"}])
    call = parse_chat(json.dumps(json.loads(raw), ensure_ascii=False).encode(encoding))
    assert call.tokenisable
    assert call.upstream_body() == json.dumps(json.loads(raw), ensure_ascii=False).encode()
    with pytest.raises(InvalidRequestError, match="not valid JSON"):
        parse_chat(b"\xef\xbb\xbf" * 3 + raw)


@pytest.mark.parametrize("prompt", ["", "text", ["a", "b"], [1, 2**32 - 1], [[1], [2, 3]]])
def test_every_form_of_prompt_is_accepted(prompt):
    """All forms of the API pass, and can be routed by their tokens."""
    call = parse_completion(completion(prompt=prompt))
    assert call.fields["prompt"] == prompt
    assert call.tokenisable


@pytest.mark.parametrize("parse", [parse_chat, parse_completion])
@given(data=st.data())
def test_any_json_is_parsed_or_refused(parse, data):
    """Whatever a client sends is understood or answered with 400, and what is understood can be forwarded."""
    value = data.draw(
        json_values
        | st.fixed_dictionaries({"model": st.just("m")}, optional=dict.fromkeys(FIELDS[1:-3], json_values))
    )
    try:
        call = parse(msgspec.json.encode(value))
    except InvalidRequestError as error:
        message = error.message
        call = None
    if call is None:
        assert message
        return
    assert isinstance(json.loads(call.upstream_body()), dict)
    assert 0 <= call.conversation_key < 2**64


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(raw):
    """Bytes that are no JSON never raise anything else."""
    for parse in (parse_chat, parse_completion):
        with pytest.raises(InvalidRequestError):
            parse(raw)


@pytest.mark.parametrize(
    "raw",
    [
        chat(),
        chat(stream=False),
        chat(stream=None),
        chat(stream=True, stream_options={"include_usage": True}),
        b'  {"model" : "m",\n"messages":[{"role":"user"}], "temperature":0.10}\n',
    ],
)
def test_clients_bytes_go_upstream_unchanged(raw):
    """Nothing is parsed and written again when nothing has to be added."""
    assert parse_chat(raw).upstream_body() == raw


@pytest.mark.parametrize(
    "raw",
    [
        chat(stream=True),
        b'{"messages":[{"role":"user","content":"\\u00e9 }"}],"stream":true , "seed":1e3,"model":"m"} \n ',
    ],
)
def test_request_for_usage_is_added_to_the_clients_bytes(raw):
    """The router always learns the usage of a stream; every byte before the last brace stays."""
    body = parse_chat(raw).upstream_body()
    assert body.startswith(raw.rstrip()[:-1])
    assert json.loads(body) == {**json.loads(raw), "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}, {"x": 1}])
def test_other_stream_options_are_kept(options):
    """Options that the client sent stay beside the one that is added."""
    call = parse_chat(chat(stream=True, stream_options=options, seed=3))
    assert not call.wants_usage
    sent = json.loads(call.upstream_body())
    assert sent.pop("stream_options") == {**(options or {}), "include_usage": True}
    assert sent == json.loads(chat(stream=True, seed=3))


def test_usage_in_every_event_is_not_asked_for_by_a_client_that_wants_none():
    """vLLM heeds the one option only beside the other, which the router adds for itself."""
    call = parse_chat(chat(stream=True, stream_options={"continuous_usage_stats": True}))
    sent = json.loads(call.upstream_body())["stream_options"]
    assert sent == {"include_usage": True, "continuous_usage_stats": False}
    asked = chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert parse_chat(asked).upstream_body() == asked


def test_conversation_key_stays_over_all_turns():
    """It depends on everything up to the first user message and on nothing after it."""
    system = {"role": "system", "content": "s"}
    first = parse_chat(chat(messages=[system, *MESSAGES]))
    later = parse_chat(
        chat(messages=[system, *MESSAGES, {"role": "assistant", "content": "x"}, MESSAGES[0]], seed=1)
    )
    other = parse_chat(chat(messages=[system, {"role": "user", "content": "other"}]))
    assert first.conversation_key == later.conversation_key
    assert first.conversation_key != other.conversation_key
    assert first.conversation_key != msgspec.structs.replace(first, cache_salt="u").conversation_key


def test_completions_that_grow_are_one_conversation():
    """A prompt that begins with 512 equal characters or tokens has the same key."""
    for unit in ("a", [1]):
        keys = {parse_completion(completion(prompt=unit * size)).conversation_key for size in (512, 900)}
        assert len(keys) == 1
    assert (
        parse_completion(completion(prompt=["ab", "c"])).conversation_key
        == parse_completion(completion(prompt="ab")).conversation_key
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template": "{{ x }}"},
        {"chat_template_kwargs": {"chat_template": "{% for i in range(99999) %}{% endfor %}"}},
        {"truncate_prompt_tokens": 5},
    ],
)
def test_what_only_the_engine_can_render_is_not_tokenised_here(fields):
    """A client's own template is never run in the router, by whatever field it comes."""
    assert not parse_chat(chat(**fields)).tokenisable
    assert parse_chat(chat()).tokenisable


@pytest.mark.parametrize("fields", [{"prompt_embeds": "AAAA"}, {"prompt": "a", "suffix": "b"}])
def test_completions_that_only_the_engine_understands(fields):
    """Embeddings and infills are forwarded without keys."""
    assert not parse_completion(completion(**fields)).tokenisable
