"""Responses that a router keeps, over HTTP, with engines whose every byte is scripted."""

import asyncio
import json

import pytest

from router.stored.history import StoredResponses
from tests.router.fake_engine import stay_silent, stream, whole
from tests.waiting import eventually

ASKED = {"model": "m", "input": "Hello!"}
OUTPUT = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}]
ANSWER = {"id": "x", "status": "completed", "output": OUTPUT, "usage": None}
EVENTS = tuple(
    b"event: %b\ndata: %b\n\n" % (data["type"].encode(), json.dumps(data).encode())
    for data in (
        {"type": "response.created", "sequence_number": 0, "response": {**ANSWER, "status": "in_progress"}},
        {"type": "response.output_text.delta", "sequence_number": 1, "delta": "yes"},
        {"type": "response.completed", "sequence_number": 2, "response": ANSWER},
    )
)


@pytest.fixture
async def keeping(start_router, engines):
    """A router that keeps responses in memory."""
    router = await start_router(*engines, stored_responses="memory")
    await router.settled()
    for engine in engines:
        engine.otherwise = whole(json.dumps(ANSWER).encode())
    return router


async def ask(router, path="/v1/responses", **fields):
    """Status and body of an answer."""
    async with router.post({**ASKED, **fields}, path) as response:
        return response.status, await response.json()


async def kept(router, response_id):
    """What the router says of a response now."""
    return (await router.get(f"/v1/responses/{response_id}"))[1]


async def test_client_sees_its_own_request_and_the_engine_a_stateless_one(keeping, engines):
    """Its id and what it refers to, whole and streamed; the engine gets all items and keeps nothing."""
    _, first = await ask(keeping)
    assert (first["store"], first["previous_response_id"]) == (True, None)
    for engine in engines:
        engine.exchanges.clear()
        engine.otherwise = stream(*EVENTS)
    body = {**ASKED, "stream": True, "previous_response_id": first["id"]}
    async with keeping.post(body, "/v1/responses") as response:
        events = (await response.read()).split(b"\n\n")
    final = json.loads(events[2].partition(b"data: ")[2])["response"]
    assert final["previous_response_id"] == first["id"]
    assert await kept(keeping, final["id"]) == final
    [sent] = [exchange.json for engine in engines for exchange in engine.exchanges]
    assert (sent["store"], sent["request_id"], len(sent["input"])) == (False, final["id"], 3)
    await keeping.drained()


async def test_stream_that_breaks_off_is_not_kept(keeping, engines):
    """Nor is one whose last event cannot be read."""
    for end in ((), (b"event: response.completed\ndata: {no\n\n",)):
        for engine in engines:
            engine.otherwise = stream(*EVENTS[:2], *end)
        async with keeping.post({**ASKED, "stream": True}, "/v1/responses") as response:
            text = await response.read()
        created = json.loads(text.split(b"\n\n")[0].partition(b"data: ")[2])["response"]
        assert (await keeping.get(f"/v1/responses/{created['id']}"))[0] == 404
    await keeping.drained()


REFUSAL = b'{"error":{"message":"no such thing","code":400}}'
FAILURES = {
    "refused": (whole(REFUSAL, status=400), "no such thing", []),
    "broken off": (stream(*EVENTS[:2]), "the stream ended early", [0, 1]),
    "error in the stream": (stream(*EVENTS[:2], b"data: %b\n\n" % REFUSAL), "reported an error", [0, 1]),
    "error event": (stream(*EVENTS[:2], b"event: error\ndata: %b\n\n" % REFUSAL), "an error", [0, 1]),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_response_in_the_background_that_fails(keeping, engines, failure):
    """It says why, and so does the last event of its stream, whenever and from wherever that is read."""
    behaviour, why, numbers = FAILURES[failure]
    for engine in engines:
        engine.otherwise = behaviour
    async with keeping.post({**ASKED, "background": True, "stream": True}, "/v1/responses") as response:
        live = await response.read()
    final = json.loads(live.split(b"\n\n")[-2].partition(b"data: ")[2])
    assert live.split(b"\n\n")[-2].startswith(b"event: response.failed\n")
    assert final["sequence_number"] == len(numbers)
    assert final["response"]["status"] == "failed"
    assert why in final["response"]["error"]["message"]
    assert b"event: error" not in live
    url = f"{keeping.url}/v1/responses/{final['response']['id']}?stream=true"
    assert await kept(keeping, final["response"]["id"]) == final["response"]
    for after, rest in ((-1, live), (0, live.partition(b"\n\n")[2] if numbers else b""), (2, b"")):
        async with keeping.client.get(f"{url}&starting_after={after}") as events:
            assert await events.read() == rest
    await keeping.drained()


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_response_in_the_background_that_nobody_wants_any_more(keeping, engines, how):
    """Its engine stops; a deleted one is gone."""
    for engine in engines:
        engine.otherwise = stay_silent
    _, response = await ask(keeping, background=True)
    url = f"{keeping.url}/v1/responses/{response['id']}"
    await eventually(lambda: any(engine.exchanges for engine in engines))
    if how == "cancel":
        async with keeping.client.post(f"{url}/cancel") as answer:
            assert (await answer.json())["status"] == "cancelled"
        assert (await kept(keeping, response["id"]))["status"] == "cancelled"
    else:
        async with keeping.client.delete(url) as answer:
            assert (await answer.json())["deleted"]
        assert (await keeping.get(f"/v1/responses/{response['id']}"))[0] == 404
    [exchange] = [exchange for engine in engines for exchange in engine.exchanges]
    await asyncio.wait_for(exchange.gone.wait(), 3)
    await keeping.drained()


async def test_response_whose_router_is_gone_has_failed(keeping, monkeypatch):
    """Nobody has worked on it for too long."""
    monkeypatch.setattr("router.api.background.ALIVE_SECONDS", 0.0)
    monkeypatch.setattr(StoredResponses, "finish", stay_unfinished)
    _, response = await ask(keeping, background=True)
    assert (await kept(keeping, response["id"]))["status"] == "failed"


async def stay_unfinished(*_):
    """Keep nothing."""


async def test_what_is_not_kept_is_not_found(keeping):
    """By any method, in OpenAI's words; and a request that is no JSON is the engine's matter."""
    for path in ("/v1/responses/resp_1", "/v1/conversations/conv_1", "/v1/responses/resp_1/input_items"):
        status, answer = await keeping.get(path)
        assert (status, answer["error"]["code"]) == (404, "not_found")
    status, answer = await ask(keeping, store=False)
    assert (status, answer) == (200, ANSWER)
