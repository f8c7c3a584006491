"""Answers that vLLM does not give, and other servers may: nothing is lost, and none harms the router."""

import json

import pytest

from tests.router.fake_engine import DONE, REPLY, event, stream, whole
from tests.router.test_requests import CHAT, STREAM

COUNTS = [
    {"prompt_tokens": 10**30, "completion_tokens": 10**19, "prompt_tokens_details": {"cached_tokens": 2**63}},
    {"prompt_tokens": 2**32},
    {"prompt_tokens": -5},
    {"prompt_tokens": 5, "completion_tokens": -1},
    {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": -1}},
    {"prompt_tokens": 5.5},
    {"prompt_tokens": "5"},
    {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 50}},
]
LINES = [
    b"data:%b\n\ndata:[DONE]\n\n",
    b"data: %b\r\n\r\ndata: [DONE]\r\n\r\n",
    b"id: 1\nevent: message\ndata: %b\n\nid: 2\ndata: [DONE]\n\n",
    b"retry: 1000\n\ndata: %b\n\ndata: [DONE]\n\n",
]
CHUNK = b'{"choices":[{"index":0,"delta":{"content":"a"}}]}'


async def answer_of(router, body):
    """Status, content type and bytes."""
    async with router.post(body) as response:
        return response.status, response.content_type, await response.read()


@pytest.mark.parametrize("usage", COUNTS)
@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_counts_of_no_engine(router, engines, usage, body):
    """The client gets them, and what operators see and what routers tell each other goes on."""
    text = json.dumps({"usage": usage}).encode()
    behave = stream(event("a"), event(usage=usage), DONE) if body is STREAM else whole(text)
    engines[0].otherwise = engines[1].otherwise = behave
    for _ in range(2):
        assert (await answer_of(router, body))[0] == 200
    for path in ("/admin/replicas", "/admin/requests", "/admin/trends"):
        status, _ = await router.get(path)
        assert status == 200
    async with router.client.get(f"{router.url}/metrics") as response:
        assert response.status == 200
    await router.drained()


@pytest.mark.parametrize("answer", [REPLY, b"[]", b"{}"])
async def test_whole_answer_to_a_client_that_wants_a_stream(router, engines, answer):
    """Not every engine can stream everything: what it says reaches the client as what it is."""
    engines[0].otherwise = engines[1].otherwise = whole(answer)
    assert await answer_of(router, STREAM) == (200, "application/json", answer)
    assert (await router.get("/admin/requests"))[1]["requests"][0]["outcome"] == "ok"
    await router.drained()


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("size", [9, 1000])
async def test_other_ways_to_write_events(router, engines, lines, size):
    """A stream is complete however its lines are written, and the client gets all of it."""
    text = lines % CHUNK
    engines[0].otherwise = engines[1].otherwise = stream(
        *(text[at : at + size] for at in range(0, len(text), size))
    )
    assert await answer_of(router, STREAM) == (200, "text/event-stream", text)
    assert (await router.get("/admin/requests"))[1]["requests"][0]["outcome"] == "ok"
    await router.drained()
