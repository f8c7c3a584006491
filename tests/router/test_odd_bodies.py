"""Bodies that are odd or too deep: refused or forwarded, and never an error of ours."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InvalidRequestError
from router.requests.schema import parse_chat, parse_completion
from tests.router.fake_engine import whole
from tests.router.test_schema import MESSAGES, chat, completion

MARK = "DEEP"
STREAMED = {"stream": True, "stream_options": {}}
DEEP_PLACES = {
    "top level": chat(a=MARK),
    "top level, written anew": chat(a=MARK, **STREAMED),
    "message": chat(messages=[{"role": "user", "content": "x", "a": MARK}]),
    "content part": chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x", "a": MARK}]}]),
    "tools": chat(tools=[{"type": "function", "function": {"name": "f", "parameters": MARK}}]),
    "vllm_xargs": chat(vllm_xargs={"a": MARK}),
    "chat_template_kwargs": chat(chat_template_kwargs={"a": MARK}),
    "stream_options": chat(stream=True, stream_options={"x": MARK}),
    "response_format, written anew": chat(response_format=MARK, **STREAMED),
    "where a model is expected": chat(model=MARK),
    "where a message is expected": chat(messages=[MARK]),
    "prompt": completion(prompt=MARK),
    "completion's messages": completion(prompt="x", messages=MARK),
}


@pytest.mark.parametrize("around", [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists", "objects"])
@pytest.mark.parametrize("place", DEEP_PLACES)
def test_deep_nesting_is_forwarded_or_refused(place, around):
    """What can be parsed can also be forwarded; no depth is an error of ours."""
    parse = parse_completion if b"prompt" in DEEP_PLACES[place] else parse_chat
    opening, closing = around
    refused = 0
    for depth in (100, *range(900, 1010), 5_000, 100_000):
        deep = opening * depth + b"1" + closing * depth
        try:
            call = parse(DEEP_PLACES[place].replace(b'"DEEP"', deep)).isolated("tenant")
            assert json.dumps(call.cache_salt).encode() in call.upstream_body()
        except InvalidRequestError as error:
            refused += "nested too deeply" in error.message
    assert refused >= 2


@pytest.mark.parametrize(
    "value",
    [
        *("NaN", "Infinity", "-Infinity", "1e999", "1" * 5_000, '"\\ud800"', '"\\udc00\\ud800"', '"\xff"'),
        *("1" * 400, "-0", "1e-400", '{"":1,"":2}', '"\\u0000"'),
    ],
)
def test_odd_values_are_read_as_by_python(value):
    """Numbers that no double holds, halves of surrogate pairs, bytes that are no UTF-8, odd keys: what Python
    reads means the same to an engine when the router has added something, and nothing else is refused.
    """
    raw = chat(a=MARK, **STREAMED).replace(b'"DEEP"', value.encode("latin-1"))
    try:
        meant = json.loads(raw)
    except ValueError:
        with pytest.raises(InvalidRequestError, match="not valid JSON"):
            parse_chat(raw).isolated("tenant").upstream_body()
        return
    sent = json.loads(parse_chat(raw).isolated("tenant").upstream_body())
    assert sent.pop("cache_salt")
    assert sent.pop("stream_options") == {"include_usage": True}
    del meant["stream_options"]
    assert repr(sent) == repr(meant)


@pytest.mark.parametrize(
    "messages", [None, 1, "x", {}, [], [1], [None], [{}], [{"role": 1}], [{"content": "x"}], MESSAGES]
)
@pytest.mark.parametrize("stream", [False, True])
def test_messages_of_a_text_completion_mean_nothing(messages, stream):
    """Its prompt is what counts, whatever stands beside it; the engine gets it all as it was sent."""
    raw = completion(prompt="hello", messages=messages, stream=stream)
    call = parse_completion(raw)
    assert list(call.messages) == []
    assert call.conversation_key == parse_completion(completion(prompt="hello")).conversation_key
    assert call.upstream_body().startswith(raw[:-1])


def test_messages_of_a_chat_are_its_own():
    """As they were sent."""
    assert parse_chat(chat()).messages == MESSAGES


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"cache_salt": "s" * 129}, "cache_salt"),
        *(({"cache_salt": f"a{forbidden}b"}, "cache_salt") for forbidden in "@/\\\0"),
    ],
)
def test_what_is_remembered_is_short(fields, param):
    """Names have limits, those of salts are vLLM's; the error does not repeat what was too long."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat(chat(**fields))
    assert re.sub(r"\d+|\.\.\.", "0", caught.value.param) == param
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("fields", [{"cache_salt": "s" * 128}, {"messages": [{"role": "r" * 64}]}])
def test_limits_are_inclusive(fields):
    """The longest names pass."""
    assert parse_chat(chat(**fields)).tokenisable


@given(
    st.tuples(st.text(max_size=4), st.text("ab", max_size=4)),
    st.tuples(st.text(max_size=4), st.text("ab", max_size=4)),
    st.booleans(),
)
def test_isolated_calls_share_with_nobody_else(one, other, stream):
    """Only the same scope and salt give the same one, of a form that vLLM takes; and the engine gets it."""
    salts = []
    for scope, salt in (one, other):
        given_salt = {"cache_salt": salt} if salt else {}
        call = parse_chat(chat(stream=stream, **given_salt)).isolated("t" + scope)
        assert re.fullmatch("[0-9a-f]{32}", call.cache_salt)
        sent = json.loads(call.upstream_body())
        assert sent.pop("cache_salt") == call.cache_salt
        assert sent.pop("stream_options", None) == ({"include_usage": True} if stream else None)
        assert sent == json.loads(chat(stream=stream))
        salts.append(call.cache_salt)
    assert (salts[0] == salts[1]) == (one == other)


def test_isolation_keeps_the_clients_bytes():
    """A salt is added to them; only one that stands there already is replaced."""
    raw = b' {"model" : "m", "messages":[{"role":"user","content":"\\u00e9"}], "temperature":0.10} \n'
    call = parse_chat(raw)
    assert call.isolated("").upstream_body() == raw
    assert call.isolated("a").upstream_body().startswith(raw.rstrip()[:-1] + b',"cache_salt":"')
    twice = parse_chat(b'{"model":"m","messages":[{"role":"user"}],"cache_salt":"a","cache_s\\u0061lt":"b"}')
    assert twice.isolated("t").upstream_body().count(b"cache_salt") == 1


@pytest.mark.parametrize("place", DEEP_PLACES)
async def test_no_depth_fails_a_request(start_router, engines, place):
    """Through the whole router, where more of the stack is in use, with a conversation that goes on."""
    router = await start_router(engines[0], policy="warm", api_keys={"alice": "key"})
    await router.settled()
    path = "/v1/completions" if b"prompt" in DEEP_PLACES[place] else "/v1/chat/completions"
    seen = set()
    for depth in (100, *range(940, 1_000)):
        # Without usage: counts that differ from the router's would end its tokenising.
        engines[0].script.append(whole(b'{"id":"x","choices":[]}'))
        raw = DEEP_PLACES[place].replace(b'"DEEP"', b"[" * depth + b"]" * depth)
        async with router.post(raw, path, headers={"authorization": "Bearer key"}) as response:
            seen.add(response.status)
            assert response.status == 200 or (await response.json())["error"]["type"].startswith("invalid")
    assert seen <= {200, 400}
    await router.drained()
