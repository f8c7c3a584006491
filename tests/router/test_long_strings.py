"""What clients send in excess is neither remembered, logged nor said again."""

import gc
import json
import tracemalloc

import pytest
from structlog.testing import capture_logs

from tests.router.fake_engine import whole
from tests.router.test_requests import CHAT

CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODY_BYTES, HEAD_BYTES = 1024 * 1024, 30_000
"""Heads of requests are limited to 64 KiB."""
REQUESTS = 6
COMPLETION = {"model": "m", "prompt": "hi"}


def message(**fields):
    """A chat whose user message has these fields."""
    return {**CHAT, "messages": [{"role": "user", "content": "hi", **fields}]}


BODIES = {
    "model": lambda text: (CHATS, {**CHAT, "model": text}),
    "completion's model": lambda text: (COMPLETIONS, {**COMPLETION, "model": text}),
    "cache_salt": lambda text: (CHATS, {**CHAT, "cache_salt": text}),
    "role": lambda text: (CHATS, message(role=text)),
    "name": lambda text: (CHATS, message(name=text)),
    "user": lambda text: (CHATS, {**CHAT, "user": text}),
    "key": lambda text: (CHATS, {**CHAT, text: 1}),
    "key of a message": lambda text: (CHATS, message(**{text: 1})),
    "where a list is expected": lambda text: (CHATS, {**CHAT, "messages": text}),
    "where a number is expected": lambda text: (COMPLETIONS, {**COMPLETION, "truncate_prompt_tokens": text}),
    "key in vllm_xargs": lambda text: (CHATS, {**CHAT, "vllm_xargs": {text: 1}}),
    "completion's messages": lambda text: (COMPLETIONS, {**COMPLETION, "messages": text}),
    "no JSON": lambda text: (CHATS, text.encode()),
}
HEADERS = ("x-request-id", "traceparent", "tracestate", "authorization", "user-agent", "content-type")
PATHS = {
    "path": lambda text: ("GET", f"/v1/{text}", None),
    "path with another method": lambda text: ("DELETE", f"/v1/{text}", None),
    "file of the page": lambda text: ("GET", f"/admin/static/{text}", None),
    "request to explain": lambda text: ("GET", f"/admin/requests/{text}", None),
    "replica of blocks": lambda text: ("GET", f"/admin/replicas/{text}/blocks", None),
    "replica to drain": lambda text: ("PUT", f"/admin/replicas/{text}/drain", None),
    "block": lambda text: ("POST", f"/admin/prefixes/{text}/reset", None),
    "number in a query": lambda text: ("GET", f"/admin/trends?seconds={text}", None),
    "query": lambda text: ("GET", f"/admin/requests?{text}={text[:9]}", None),
    "policy": lambda text: ("PUT", "/admin/policy", {"policy": text}),
    "key of a policy": lambda text: ("PUT", "/admin/policy", {"policy": "warm", text: 1}),
    "experiment": lambda text: ("PUT", "/admin/experiment", {"control": "warm", "share": 0.1, "name": text}),
}


@pytest.fixture
async def lone(start_router, engines):
    """A router with one engine that answers without looking, and a function that sends it a request."""
    router = await start_router(engines[0])
    await router.settled()
    # Without usage: counts that differ from the router's would end its tokenising.
    engines[0].script.extend([whole(b'{"id":"x","choices":[]}')] * 100)

    async def send(method, path, body=None, **headers):
        """Without a client that remembers URLs: status, and head and body of the answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"host": "127.0.0.1", "content-length": len(content), "connection": "close"} | headers
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        reader, writer = await router.connect(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return int(answer.split()[1]), answer

    async def forget():
        """Nothing of what engines were sent stays in this process."""
        engines[0].exchanges.clear()
        gc.collect()

    router.send, router.forget = send, forget
    return router


async def assert_forgotten(router, make, size):
    """Send a few requests; log lines and answers are short, and memory is as before."""

    async def once(number):
        method, path, body, headers = make(f"{number}{'x' * size}")
        return await router.send(method, path, body, **headers)

    await once(0)
    await router.forget()
    tracemalloc.start()
    try:
        with capture_logs() as logs:
            for number in range(1, REQUESTS):
                status, answer = await once(number)
                assert status < 500 or b"redis_unavailable" in answer
                assert len(answer) < 3_000
        assert all(len(str(line)) < 4_000 for line in logs)
        logs.clear()
        await router.forget()
        kept = [trace for trace in tracemalloc.take_snapshot().traces if trace.size >= size // 2]
    finally:
        tracemalloc.stop()
    # Buffers of connections may be as large; what is remembered would be there once for each request.
    assert len(kept) < REQUESTS // 2, kept
    _, remembered = await router.send("GET", "/admin/requests?limit=100")
    assert len(remembered) < 3_000 * REQUESTS


@pytest.mark.parametrize("place", BODIES)
async def test_long_strings_in_bodies(lone, place):
    """Wherever they stand."""

    def make(text):
        path, body = BODIES[place](text)
        return "POST", path, body, {}

    await assert_forgotten(lone, make, BODY_BYTES)


@pytest.mark.parametrize("name", HEADERS)
async def test_long_headers(lone, engines, name):
    """Those that are passed on are passed on only while they are short."""
    await assert_forgotten(lone, lambda text: ("POST", CHATS, CHAT, {name: text}), HEAD_BYTES)
    await lone.send("POST", CHATS, CHAT, **{name: "x" * HEAD_BYTES})
    assert all(len(value) < 1_024 for value in engines[0].exchanges[-1].headers.values())


@pytest.mark.parametrize("place", PATHS)
async def test_long_paths(lone, place):
    """Of the API, the admin API and of nothing."""

    def make(text):
        return *PATHS[place](text), {}

    await assert_forgotten(lone, make, HEAD_BYTES)


@pytest.mark.parametrize(("name", "before"), [("origin", "http://"), ("host", "")])
async def test_long_names_of_pages(lone, name, before):
    """Requests of other pages are refused with the beginning of their names."""

    def make(text):
        return "GET", "/admin/overview", None, {name: before + text}

    await assert_forgotten(lone, make, HEAD_BYTES)
