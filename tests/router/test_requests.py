"""A request's whole life in the real application: what the client gets, and what is left behind."""

import asyncio
import io
import json
import re

import pytest

from cluster.prompts.tokenizer import PromptTokenizer
from tests.router.fake_engine import (
    DONE,
    REPLY,
    USAGE,
    counted,
    event,
    stream,
    whole,
)
from tests.waiting import eventually

MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Hello!"},
]
CHAT = {"model": "m", "messages": MESSAGES}
STREAM = {**CHAT, "stream": True}
STREAM_WITH_USAGE = {**STREAM, "stream_options": {"include_usage": True}}
USAGE_EVENT = event(usage=USAGE)
ERROR_400 = b'data: {"error": {"message": "bad grammar", "type": "BadRequestError", "code": 400}}\n\n'
ERROR_500 = b'data: {"error": {"message": "engine died", "type": "InternalServerError", "code": 500}}\n\n'


def in_pieces(*pieces):
    """A behaviour: the head, then pieces of the body with a pause after each, so that none is merged."""
    return stream(*pieces, pause=0.01)


async def silent_mid_stream(exchange):
    """One event, then nothing."""
    await exchange.head()
    await exchange.chunk(event("he"))
    await exchange.gone.wait()


async def die_mid_stream(exchange):
    """One event and a half, then death."""
    await exchange.head()
    await exchange.chunk(event("he"))
    await exchange.chunk(event("llo")[:20])
    await asyncio.sleep(0.02)
    exchange.abort()


def assert_error(body, code, param=None, kind="invalid_request_error"):
    """The API's error format."""
    assert set(body) == {"error"}
    assert body["error"]["message"]
    assert (body["error"]["type"], body["error"]["param"], body["error"]["code"]) == (kind, param, code)


async def send_raw(router, body, extra=""):
    """Send a request over a socket of our own."""
    data = json.dumps(body).encode()
    reader, writer = await router.connect()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n{extra}\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return reader, writer


async def arrived(engine):
    """Wait for the engine's first request."""
    await eventually(lambda: bool(engine.exchanges))
    return engine.exchanges[0]


async def test_stream_reaches_the_client_byte_for_byte_without_usage(router, engines):
    """A client that did not ask for usage gets every byte but that event; the engine was asked for it."""
    async with router.post(STREAM) as response:
        assert response.status == 200
        assert await response.read() == event("he") + event("llo") + DONE
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["x-warmroute-replica"] == "a"
        assert response.headers["x-warmroute-reason"] == "round-robin"
        assert response.headers["x-warmroute-policy"] == "round-robin"
        assert response.headers["x-warmroute-expected-cached-tokens"] == "0"
        assert len(response.headers["x-request-id"]) == 32
    [exchange] = engines[0].exchanges
    assert exchange.path == "/v1/chat/completions"
    assert exchange.json == STREAM_WITH_USAGE
    await router.drained()


async def test_client_that_asked_for_usage_gets_it(router, engines):
    """The usage event passes, and the client's body goes upstream unchanged."""
    body = json.dumps(STREAM_WITH_USAGE, indent=3).encode()
    async with router.post(body) as response:
        assert await response.read() == event("he") + event("llo") + USAGE_EVENT + DONE
    assert engines[0].exchanges[0].body == body
    await router.drained()


@pytest.mark.parametrize("size", [1, 7, 50])
async def test_events_cut_anywhere_come_out_whole(router, engines, size):
    """However the engine's bytes are cut, the client gets them all, and usage is still found and removed."""
    data = event("hé 东") + event("llo") + USAGE_EVENT + DONE
    cut = [data[start : start + size] for start in range(0, len(data), size)]
    engines[0].script.append(stream(*cut))
    async with router.post(STREAM) as response:
        assert await response.read() == data.replace(USAGE_EVENT, b"")
    await router.drained()
    assert (await router.get("/admin/replicas"))[1]["replicas"][0]["delivered_cached_tokens"] == 4


async def test_events_merged_into_one_segment_come_out_whole(router, engines):
    """Several events in one read lose only the usage."""
    engines[0].script.append(stream(event("a") + USAGE_EVENT + event("b") + DONE))
    async with router.post(STREAM) as response:
        assert await response.read() == event("a") + event("b") + DONE
    await router.drained()


async def test_stream_is_not_held_back(router, engines):
    """Each event reaches the client before the engine sends the next one."""
    go_on = asyncio.Event()

    async def one_then_wait(exchange):
        await exchange.head()
        await exchange.chunk(event("first"))
        await go_on.wait()
        await exchange.chunk(DONE)
        await exchange.end()

    engines[0].script.append(one_then_wait)
    async with router.post(STREAM) as response:
        assert await response.content.readany() == event("first")
        replica = router.fleet.replicas["a"]
        assert (replica.running, replica.queued_tokens) == (1, 0)
        go_on.set()
        assert await response.content.read() == DONE
    await router.drained()


async def test_whole_reply_passes_unchanged(router, engines):
    """Body, length and type are the engine's."""
    async with router.post(CHAT) as response:
        assert (response.status, await response.read()) == (200, REPLY)
        assert response.headers["content-type"] == "application/json"
        assert response.headers["content-length"] == str(len(REPLY))
    assert engines[0].exchanges[0].json == CHAT
    await router.drained()


@pytest.mark.parametrize("status", [400, 401, 404, 422])
@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_engines_refusal_passes_unchanged_and_is_not_retried(router, engines, status, body):
    """What the engine says about a request is the answer, stream or not."""
    refusal = b'{"error": {"message": "no such thing", "code": %d}}' % status
    engines[0].script.append(whole(refusal, status))
    async with router.post(body) as response:
        assert (response.status, await response.read()) == (status, refusal)
    assert not engines[1].exchanges
    await router.drained()


async def test_refusal_as_first_event_is_an_answer(router, engines):
    """An error that blames the request is neither retried nor held against the replica."""
    engines[0].script.append(stream(ERROR_400, DONE))
    async with router.post(STREAM) as response:
        assert await response.read() == ERROR_400 + DONE
        assert response.headers["x-warmroute-replica"] == "a"
    assert not engines[1].exchanges
    assert router.fleet.replicas["a"].failed_until == 0
    await router.drained()


async def test_expected_and_delivered_cached_tokens(start_router, engines, tiny_model):
    """The blocks a replica holds are expected there, and the engine's own figure is accounted beside them."""
    for engine in engines:
        engine.otherwise = counted(len(PromptTokenizer(tiny_model).chat(CHAT).token_ids))
    router = await start_router(*engines, policy="warm")
    await router.settled()
    async with router.post(CHAT) as response:
        first = response.headers["x-warmroute-replica"]
        assert response.headers["x-warmroute-reason"] == "cold"
    [booked] = [r for r in router.fleet.replicas.values() if r.lease.replica == first]
    router.fleet.apply(booked, router.fleet.index.expected(booked.slot), (), cleared=False)
    async with router.post(CHAT) as response:
        assert response.headers["x-warmroute-replica"] == first
        assert response.headers["x-warmroute-reason"] == "warm"
        expected = int(response.headers["x-warmroute-expected-cached-tokens"])
    assert expected > 0
    assert expected % 4 == 0
    totals = (await router.get("/admin/replicas"))[1]["replicas"]["ab".index(first)]
    assert (totals["requests"], totals["predicted_cached_tokens"], totals["delivered_cached_tokens"]) == (
        2,
        expected,
        8,
    )
    await router.drained()


async def test_completions_with_text_tokens_and_several_prompts(router, engines):
    """All forms of prompts go to the engine as they came."""
    for number, prompt in enumerate(["Hello!", [1, 2, 3], ["Hello!", "water"], [[1, 2], [3]], ""]):
        body = {"model": "m", "prompt": prompt}
        async with router.post(body, "/v1/completions") as response:
            assert (response.status, await response.read()) == (200, REPLY)
            assert response.headers["x-warmroute-expected-cached-tokens"] == "0"
        exchange = engines[number % 2].exchanges[-1]
        assert (exchange.path, exchange.json) == ("/v1/completions", body)
    await router.drained()


async def test_request_id_of_the_client_is_kept(router, engines):
    """It comes back, and begins the one by which the engine knows the request; one that is no good is
    replaced.
    """
    async with router.post(CHAT, headers={"x-request-id": "mine-1"}) as response:
        assert response.headers["x-request-id"] == "mine-1"
        unique = response.headers["x-warmroute-request-id"]
    assert re.fullmatch("mine-1-[0-9a-f]{16}", unique)
    assert engines[0].exchanges[0].headers["x-request-id"] == unique
    async with router.post(CHAT, headers={"x-request-id": "x" * 129}) as response:
        assert len(response.headers["x-request-id"]) == 32
        assert "x-warmroute-request-id" not in response.headers
    async with router.post(b"[]", headers={"x-request-id": "mine-2"}) as response:
        assert (response.status, response.headers["x-request-id"]) == (400, "mine-2")


async def test_only_some_headers_go_upstream(start_router, engines):
    """The engine sees the shared secret, the trace and what it reads itself, never the client's key."""
    router = await start_router(engines[0], engine_api_key="secret", api_keys={"t": "client-key"})
    headers = {
        "authorization": "Bearer client-key",
        "traceparent": "00-1-2-01",
        "cookie": "a=b",
        "x-other": "1",
        "x-session-id": "s",
        "x-vllm-priority": "3",
        "endpoint-load-metrics-format": "text",
        "x-data-parallel-rank": "1",
        "content-type": "application/json; charset=utf-8",
    }
    async with router.post(CHAT, headers=headers) as response:
        assert response.status == 200
    sent = engines[0].exchanges[0].headers
    assert sent["authorization"] == "Bearer secret"
    assert sent["traceparent"] == "00-1-2-01"
    for name in ("x-session-id", "x-vllm-priority", "endpoint-load-metrics-format", "content-type"):
        assert sent[name] == headers[name]
    assert not {"cookie", "x-other", "x-data-parallel-rank"} & set(sent)


async def test_a_body_without_a_type_has_none_upstream(start_router, engines):
    """Whether an engine takes it is the engine's business."""
    router = await start_router(engines[0])
    body = json.dumps(CHAT).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(body)
    for header, sent in (
        (b"", None),
        (b"content-type:\r\n", ""),
        (b"Content-Type: text/plain\r\n", "text/plain"),
    ):
        reader, writer = await router.connect(head + header + b"\r\n" + body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert engines[0].exchanges[-1].headers.get("content-type") == sent
        writer.close()


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_engines_headers_reach_the_client(start_router, engines, streamed):
    """But those of the connection, of the engine itself, and what could end a line."""
    router = await start_router(engines[0], hide_cache_headers="*")

    async def answer(exchange):
        await exchange.raw(
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\ndate: then\r\nserver: engine\r\nset-cookie: a=b\r\nx-request-id: x\r\n"
            b'connection: keep-alive, metadata\r\nkeep-alive: timeout=5\r\nmetadata: {"a": \xe9}\r\n'
            b"access-control-allow-origin: *\r\n"
            b"endpoint-load-metrics: TEXT a=1\r\ncache-control: max-age=9\r\n"
            b"content-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b" % (len(DONE), DONE)
        )

    engines[0].script.append(answer)
    async with router.post({**CHAT, "stream": streamed}) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        assert await response.read() == DONE
    assert headers.pop("date", "") != "then"
    assert headers.pop("x-request-id") != "x"
    about_length = headers.pop("transfer-encoding" if streamed else "content-length")
    assert about_length == ("chunked" if streamed else str(len(DONE)))
    assert headers == {
        "metadata": '{"a": \udce9}',
        "endpoint-load-metrics": "TEXT a=1",
        "content-type": "text/event-stream",
        "cache-control": "no-cache" if streamed else "max-age=9",
        **({"x-accel-buffering": "no"} if streamed else {}),
    }


@pytest.mark.parametrize("long", [True, False])
async def test_long_bodies_are_held_until_their_answers_stream(router, engines, long):
    """Then they count no longer among the bytes in flight; short ones are still needed to explain misses."""
    may_end = asyncio.Event()

    async def wait_in_the_middle(exchange):
        await exchange.head()
        await exchange.chunk(event("a"))
        await may_end.wait()
        await exchange.chunk(DONE)
        await exchange.end()

    engines[0].script.append(wait_in_the_middle)
    body = json.dumps({**STREAM, "user": "x" * (1_100_000 if long else 10)}).encode()
    async with router.client.post(f"{router.url}/v1/chat/completions", data=io.BytesIO(body)) as response:
        await response.content.readany()
        assert (router.app.admission.body_bytes == 0) == long
        may_end.set()
        assert (await response.read()).endswith(DONE)
    await router.drained()
    await eventually(lambda: router.app.admission.body_bytes == 0)
