"""Bodies are parsed where they hold up nobody."""

import asyncio
import json
import threading
import time

import pytest

from router.errors import InvalidRequestError
from router.requests import bodies
from router.requests.bodies import THREAD_SECONDS, in_session, parse_body, parse_seconds, rewritten
from router.requests.schema import parse_chat, parse_completion
from router.tenants.cache_scopes import CacheScope
from tests.waiting import eventually

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def chat(**fields):
    """A chat whose other fields hold very many values."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}], "cache_salt": "s"}
    return json.dumps({**body, "logit_bias": {str(n): 0 for n in range(400_000)}, **fields}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"0," * 4_000_000 + b"0]",
        b"[" + b"{}," * 2_000_000 + b"0]",
        b"[" + b"[]," * 2_000_000 + b"0]",
        b'{"a":[' + b'{"role":"user"},' * 500_000 + b"0]}",
        b'"' + b"\\n" * 4_000_000 + b'"',
    ],
    ids=["numbers", "objects", "arrays", "messages", "escapes"],
)
def test_slow_bodies_are_known_before_they_are_parsed(raw):
    """Whatever it is that makes them slow; and it takes no time to see it."""
    began = time.perf_counter()
    assert parse_seconds(raw) > THREAD_SECONDS
    assert time.perf_counter() - began < 1


def test_long_texts_are_no_slow_bodies():
    """A megabyte of English takes a parser no longer than a short body of values."""
    raw = json.dumps({"prompt": 'It was, they said, the best of "times".\n' * 25_000}).encode()
    assert parse_seconds(raw) < bodies.INLINE_SECONDS


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"stream": True, "stream_options": {}}])
async def test_a_slow_body_is_parsed_elsewhere_to_the_same_effect(threads, fields):
    """Routing learns the same of it, and the engine gets the same; only the prompt cannot be tokenised."""
    raw = chat(**fields)
    here, elsewhere = parse_chat(raw), await parse_body(CHAT, raw, CacheScope(), threads, "client")
    for name in ("path", "model", "stream", "wants_usage", "cache_salt", "conversation", "raw"):
        assert getattr(elsewhere, name) == getattr(here, name), name
    assert elsewhere.upstream_body() == here.upstream_body()
    assert not elsewhere.tokenisable


@pytest.mark.parametrize(("path", "salted"), [("/v1/embeddings", True), ("/tokenize", False)])
async def test_a_slow_body_of_another_path(threads, path, salted):
    """It keeps its bytes, and a tenant its salt where the engine reads one."""
    raw = json.dumps({"input": [[1] * 1000] * 200, "model": "m"}).encode()
    call = await parse_body(path, raw, CacheScope("tenant"), threads, "client")
    assert (call.path, call.model, call.raw, bool(call.cache_salt)) == (path, "m", raw, salted)
    assert call.upstream_body().startswith(raw[:-1])
    assert (call.upstream_body() == raw) is not salted


@pytest.mark.parametrize("many", [100, 250_000, 2_000_000])
async def test_a_body_is_rewritten_where_it_would_be_parsed(threads, many):
    """On the event loop, in a thread, or not at all: what a body names is no way to hold others up."""
    where = []
    raw = b"[" + b"1," * many + b"1]"
    work = rewritten(raw, lambda body: where.append(threading.current_thread()) or body, threads, "client")
    if many > 1_000_000:
        with pytest.raises(InvalidRequestError, match="too many values"):
            await work
        assert not where
    else:
        assert await work == raw
        assert (where == [threading.main_thread()]) == (many == 100)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"cache_salt": "@"}),
        (COMPLETION, {"prompt": "x", "kv_transfer_params": {}}),
    ],
)
async def test_what_is_wrong_with_a_slow_body_is_said_as_ever(threads, path, body):
    """The message and the field are those of a short body."""
    parse = {CHAT: parse_chat, COMPLETION: parse_completion}[path]
    raw = json.dumps({"model": "m", **body, "x": [{}] * 100_000}).encode()
    with pytest.raises(InvalidRequestError) as here:
        parse(raw)
    with pytest.raises(InvalidRequestError) as elsewhere:
        await parse_body(path, raw, CacheScope(), threads, "client")
    assert (elsewhere.value.message, elsewhere.value.param) == (here.value.message, here.value.param)


async def test_the_event_loop_goes_on_meanwhile(threads):
    """A body that takes a parser half a second stops nobody."""
    raw = b'{"model":"m","messages":[' + b'{"role":"user","content":"a"},' * 500_000 + b"0]}"
    parsing = asyncio.create_task(parse_body(CHAT, raw, CacheScope(), threads, "client"))
    gaps, last = [], time.perf_counter()
    while not parsing.done():
        await asyncio.sleep(0.002)
        gaps.append(time.perf_counter() - last)
        last = time.perf_counter()
    call = await parsing
    assert (call.raw, call.upstream_body(), call.fields) == (raw, raw, {})
    assert sorted(gaps)[-len(gaps) // 20 or -1] < 0.1


async def test_a_process_ends_with_its_client(threads, monkeypatch):
    """Nobody parses what nobody waits for."""
    children = []
    popen = bodies.subprocess.Popen
    monkeypatch.setattr(
        bodies.subprocess,
        "Popen",
        lambda *args, **options: children.append(popen(*args, **options)) or children[-1],
    )
    parsing = asyncio.create_task(parse_body(CHAT, chat(), CacheScope(), threads, "client"))
    await eventually(lambda: children)
    parsing.cancel()
    await eventually(lambda: len(threads) == 0)
    assert children[0].returncode is not None


@pytest.mark.parametrize(
    "said",
    [
        lambda name: ({b"x-session-id": name.encode()}, {}),
        lambda name: ({b"session_id": name.encode()}, {}),
        lambda name: ({}, {"prompt_cache_key": name}),
        lambda name: ({}, {"metadata": {"user_id": name, "session_id": 1}}),
    ],
)
def test_conversations_that_begin_alike_are_told_apart_by_what_clients_call_them(said):
    """But a name joins nothing: not what begins otherwise, and not what another tenant or salt has."""

    def key(name, scope="", **other):
        headers, fields = said(name) if name else ({}, {})
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields, **other}
        return in_session(parse_chat(json.dumps(body).encode()).isolated(scope), headers).conversation_key

    opening = [{"role": "user", "content": "other"}]
    others = [key(""), key("2"), key("1", "t"), key("1", messages=opening), key("1", cache_salt="u")]
    assert key("1") == key("1", seed=1)
    assert len({key("1"), *others}) == 6


@pytest.mark.parametrize(
    "fields", [{"metadata": 1}, {"metadata": {"user_id": 1}}, {"prompt_cache_key": ["x"]}]
)
def test_names_of_other_types_are_none(fields):
    """They are left to the engine."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    call = parse_chat(json.dumps(body).encode())
    assert in_session(call, {}) is call
