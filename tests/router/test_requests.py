"""A request's whole life in the real application: what the client gets, and what is left behind."""

import asyncio
import json
import socket

import pytest
from blockbuster import blockbuster_ctx

from cluster.ownership import OwnershipWriter
from cluster.store import connect
from cluster.wire import Keys, Lease, ReplicaState
from tests.router.fake_engine import (
    DONE,
    REPLY,
    USAGE,
    die_after_headers,
    die_before_headers,
    die_in_a_whole_reply,
    event,
    never_end,
    stay_silent,
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


# ---- answers ----


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


async def test_expected_and_delivered_cached_tokens(start_router, engines):
    """The blocks a replica holds are expected there, and the engine's own figure is accounted beside them."""
    router = await start_router(policy="warm")
    for name, engine in zip("ab", engines, strict=True):
        router.admit(engine.url, name)
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


# ---- headers ----


async def test_request_id_of_the_client_is_kept(router, engines):
    """It comes back and goes upstream; one that is no good is replaced."""
    async with router.post(CHAT, headers={"x-request-id": "mine-1"}) as response:
        assert response.headers["x-request-id"] == "mine-1"
    assert engines[0].exchanges[0].headers["x-request-id"] == "mine-1"
    async with router.post(CHAT, headers={"x-request-id": "x" * 129}) as response:
        assert len(response.headers["x-request-id"]) == 32
    async with router.post({}, headers={"x-request-id": "mine-2"}) as response:
        assert (response.status, response.headers["x-request-id"]) == (400, "mine-2")


async def test_only_tracing_headers_go_upstream(start_router, engines):
    """The engine sees the shared secret and the trace, never the client's key."""
    router = await start_router(engine_api_key="secret", api_keys={"t": "client-key"})
    router.admit(engines[0].url)
    headers = {
        "authorization": "Bearer client-key",
        "traceparent": "00-1-2-01",
        "cookie": "a=b",
        "x-other": "1",
    }
    async with router.post(CHAT, headers=headers) as response:
        assert response.status == 200
    sent = engines[0].exchanges[0].headers
    assert sent["authorization"] == "Bearer secret"
    assert sent["traceparent"] == "00-1-2-01"
    assert not {"cookie", "x-other"} & set(sent)


# ---- failures before the first byte ----


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(
    "failure",
    [
        die_before_headers,
        die_after_headers,
        die_in_a_whole_reply,
        stay_silent,
        whole(b'{"error": "no"}', 500),
        whole(b"", 503),
        whole(b"", 200),
    ],
    ids=["dies", "dies after headers", "dies in its first bytes", "silent", "500", "503", "empty"],
)
async def test_failed_attempt_is_repeated_elsewhere(router, engines, body, failure):
    """As long as nothing has reached the client, the next replica answers and nobody notices."""
    engines[0].script.append(failure)
    async with router.post(body) as response:
        assert response.status == 200
        data = await response.read()
        assert data == (REPLY if body is CHAT else event("he") + event("llo") + DONE)
        assert response.headers["x-warmroute-replica"] == "b"
        assert response.headers["x-warmroute-reason"] == "retry"
    assert [len(engine.exchanges) for engine in engines] == [1, 1]
    assert engines[0].exchanges[0].body == engines[1].exchanges[0].body
    await router.drained()


@pytest.mark.parametrize(
    "pieces",
    [[ERROR_500], [ERROR_500[:9], ERROR_500[9:30], ERROR_500[30:]], [ERROR_500[:-1], b"\n"]],
    ids=["whole", "cut", "cut in its end"],
)
async def test_error_as_first_event_is_repeated_elsewhere(router, engines, pieces):
    """A stream that begins with the engine's own failure has not begun, however its bytes were cut."""
    engines[0].script.append(in_pieces(*pieces, DONE))
    async with router.post(STREAM) as response:
        assert await response.read() == event("he") + event("llo") + DONE
        assert response.headers["x-warmroute-replica"] == "b"
    await router.drained()


async def test_stream_that_dies_within_its_first_event_is_repeated(router, engines):
    """Half an event is nothing that a client could use."""

    async def half(exchange):
        await exchange.head()
        await exchange.chunk(event("he")[:15])
        await asyncio.sleep(0.01)
        exchange.abort()

    engines[0].script.append(half)
    async with router.post(STREAM) as response:
        assert await response.read() == event("he") + event("llo") + DONE
    await router.drained()


async def test_engine_that_is_not_there_is_left_alone_for_a_moment(router, engines):
    """After a refused connection the next requests do not try it again, until its time is over."""
    await engines[0].stop()
    for _ in range(4):
        async with router.post(CHAT) as response:
            assert (response.status, response.headers["x-warmroute-replica"]) == (200, "b")
    assert router.fleet.replicas["a"].failed_until > 0
    await router.drained()


async def test_all_attempts_failed(router, engines):
    """The client gets 502 with the last reason, after as many attempts as are allowed, on all replicas."""
    for engine in engines:
        engine.script.extend([whole(b"out of order", 500)] * 3)
    async with router.post(CHAT) as response:
        assert response.status == 502
        assert response.headers["retry-after"] == "1"
        body = await response.json()
    assert_error(body, "upstream_failed", kind="upstream_error")
    assert "out of order" in body["error"]["message"]
    assert [len(engine.exchanges) for engine in engines] == [2, 1]
    await router.drained()


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_only_replica_is_tried_again(start_router, engines, body):
    """Where there is nobody else, one that failed is better than none, for this request and the next."""
    router = await start_router(failed_replica_seconds=60)
    router.admit(engines[0].url)
    engines[0].script.append(die_before_headers)
    for reason in ("retry", "round-robin"):
        async with router.post(body) as response:
            assert (response.status, response.headers["x-warmroute-reason"]) == (200, reason)
            await response.read()
    assert len(engines[0].exchanges) == 3
    await router.drained()


async def test_all_attempts_too_slow(start_router, engines):
    """Nothing hangs: silence becomes 504."""
    router = await start_router(first_byte_seconds=0.5)
    router.admit(engines[0].url)
    engines[0].script.append(stay_silent)
    async with router.post(STREAM) as response:
        assert response.status == 504
        assert_error(await response.json(), "upstream_timeout", kind="upstream_error")
    await asyncio.wait_for(engines[0].exchanges[0].gone.wait(), 2)
    await router.drained()


async def test_number_of_attempts_is_bounded(start_router, engines):
    """One attempt allowed is one attempt made."""
    router = await start_router(max_attempts=1)
    for name, engine in zip("ab", engines, strict=True):
        router.admit(engine.url, name)
        engine.script.append(whole(b"no", 500))
    async with router.post(CHAT) as response:
        assert response.status == 502
    assert sum(len(engine.exchanges) for engine in engines) == 1
    await router.drained()


# ---- failures after the first byte ----


@pytest.mark.parametrize(
    ("failure", "passed"),
    [
        (die_mid_stream, event("he")),
        (silent_mid_stream, event("he")),
        (stream(event("he"), event("llo")), event("he") + event("llo")),
    ],
    ids=["dies", "silent", "ends early"],
)
async def test_stream_that_breaks_ends_with_an_error_event(router, engines, failure, passed):
    """What came is passed on, then an error in the API's format and the usual end; nothing is repeated."""
    engines[0].script.append(failure)
    async with router.post(STREAM) as response:
        data = await response.read()
    assert data.startswith(passed)
    assert data.endswith(b"\n\n" + DONE)
    error = data.removeprefix(passed).removesuffix(DONE)
    assert_error(json.loads(error.removeprefix(b"data: ")), "upstream_failed", kind="upstream_error")
    assert not engines[1].exchanges
    await router.drained()
    assert (await router.get("/admin/replicas"))[1]["replicas"][0]["failures"] == 1


async def test_engines_own_error_event_mid_stream_passes(router, engines):
    """The engine's words reach the client, and the request counts as failed."""
    engines[0].script.append(stream(event("he"), ERROR_500, DONE))
    async with router.post(STREAM) as response:
        assert await response.read() == event("he") + ERROR_500 + DONE
    await router.drained()
    assert (await router.get("/admin/replicas"))[1]["replicas"][0]["failures"] == 1


# ---- the client leaves ----


async def send_raw(router, body, extra=""):
    """Send a request over a socket of our own."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n{extra}\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return reader, writer


async def arrived(engine):
    """Wait for the engine's first request."""
    await eventually(lambda: bool(engine.exchanges))
    return engine.exchanges[0]


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_client_leaves_before_the_first_byte(router, engines, body):
    """The engine is told at once by a closed connection, the booking is gone, nothing is retried."""
    engines[0].script.append(stay_silent)
    _, writer = await send_raw(router, body)
    exchange = await arrived(engines[0])
    assert router.fleet.open_bookings == 1
    writer.close()
    await asyncio.wait_for(exchange.gone.wait(), 2)
    await router.drained()
    assert not engines[1].exchanges
    assert router.fleet.replicas["a"].failed_until == 0


@pytest.mark.parametrize("abruptly", [False, True])
async def test_client_leaves_mid_stream(router, engines, abruptly):
    """A never-ending stream ends upstream when nobody listens any more."""
    engines[0].script.append(never_end)
    reader, writer = await send_raw(router, STREAM)
    await reader.readuntil(b"data: ")
    exchange = await arrived(engines[0])
    assert router.fleet.open_bookings == 1
    if abruptly:
        writer.transport.abort()
    else:
        writer.close()
    await asyncio.wait_for(exchange.gone.wait(), 2)
    await router.drained()


async def test_client_leaves_in_its_own_body(router, engines):
    """Half a request reaches no engine."""
    _, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    async with router.post(CHAT) as response:
        assert response.status == 200
    assert len(engines[0].exchanges) + len(engines[1].exchanges) == 1
    await router.drained()


async def test_clients_leaving_at_random_times_leave_nothing_behind(router, engines):
    """Forty clients that come and go: all bookings return to zero and the router goes on."""

    async def impatient(number):
        _, writer = await send_raw(router, STREAM if number % 2 else CHAT)
        await asyncio.sleep(number * 0.0015)
        writer.transport.abort()

    for engine in engines:
        engine.script.extend([never_end, stay_silent, stream(event("x"), DONE), die_mid_stream] * 3)
    await asyncio.gather(*map(impatient, range(40)))
    await router.drained()
    for engine in engines:
        engine.script.clear()
    async with router.post(CHAT) as response:
        assert response.status == 200


async def pour(exchange):
    """A script: 240 MB of answer, as fast as it is taken."""
    await exchange.head()
    for _ in range(4000):
        await exchange.chunk(event("x" * 60_000))


def ask_without_reading(client, port):
    """Send a request for a stream on a socket that takes in little."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.connect(("127.0.0.1", port))
    data = json.dumps(STREAM).encode()
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(data))
    client.sendall(data)


async def test_client_that_does_not_read_is_not_buffered_for(router, engines):
    """The engine is slowed down to the client's pace: the router holds little more than the kernel does."""
    engines[0].script.append(pour)
    with socket.socket() as client:
        ask_without_reading(client, router.port)
        exchange = await arrived(engines[0])
        before = -1
        while exchange.written != before:
            before = exchange.written
            await asyncio.sleep(0.15)
        assert 0 < exchange.written < 40_000_000
        assert router.fleet.open_bookings == 1
    await asyncio.wait_for(exchange.gone.wait(), 2)
    await router.drained()


async def test_stalled_client_is_given_up(start_router, engines):
    """A client that takes nothing of its answer for too long holds neither engine nor booking."""
    router = await start_router(stalled_client_seconds=0.3)
    router.admit(engines[0].url)
    engines[0].script.append(pour)
    with socket.socket() as client:
        ask_without_reading(client, router.port)
        exchange = await arrived(engines[0])
        await asyncio.wait_for(exchange.gone.wait(), 5)
        await router.drained()


async def test_body_that_trickles_in_is_given_up(start_router):
    """A body that does not arrive in time is answered with 408 and holds no place."""
    router = await start_router(body_seconds=0.2, max_open_requests=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
    reply = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in reply
    writer.close()
    await writer.wait_closed()


# ---- refusals ----


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", b"{", None),
        ("/v1/chat/completions", {"model": "m"}, "messages"),
        ("/v1/chat/completions", {**CHAT, "messages": []}, "messages"),
        ("/v1/chat/completions", {**CHAT, "stream": "yes"}, "stream"),
        (
            "/v1/chat/completions",
            {**CHAT, "kv_transfer_params": {"prompt_token_ids": [1]}},
            "kv_transfer_params",
        ),
        ("/v1/completions", {"model": "m"}, "prompt"),
        ("/v1/completions", {"model": "m", "prompt": [-1]}, "prompt[0]"),
    ],
)
async def test_bad_input_reaches_no_engine(router, engines, path, body, param):
    """A malformed request is answered with 400 and the field's name."""
    async with router.post(body, path) as response:
        assert response.status == 400
        assert response.headers["content-type"] == "application/json"
        assert_error(await response.json(), None, param)
    assert not any(engine.exchanges for engine in engines)
    await router.drained()


async def test_unknown_model(router):
    """404 in the API's words."""
    async with router.post({**CHAT, "model": "gpt-9"}) as response:
        assert response.status == 404
        body = await response.json()
    assert_error(body, "model_not_found", "model")
    assert "gpt-9" in body["error"]["message"]


async def test_prompt_that_does_not_fit(start_router, engines):
    """400 with the code that clients look for; no engine is bothered."""
    router = await start_router()
    router.admit(engines[0].url, max_model_len=8)
    await router.settled()
    async with router.post(CHAT) as response:
        assert response.status == 400
        assert_error(await response.json(), "context_length_exceeded", "messages")
    assert not engines[0].exchanges


@pytest.mark.parametrize("state", ["starting", "draining", "unreachable"])
async def test_no_replica_ready(router, engines, state):
    """503 and when to try again, while the model stays known."""
    for name, engine in zip("ab", engines, strict=True):
        router.admit(engine.url, name, state=state)
    async with router.post(STREAM) as response:
        assert response.status == 503
        assert int(response.headers["retry-after"]) > 0
        assert_error(await response.json(), "no_replica_ready", kind="service_unavailable")
    await router.drained()


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_too_large(start_router, engines, chunked):
    """413, whether the length was announced or not."""
    router = await start_router(max_body_bytes=2048)
    router.admit(engines[0].url)
    data = json.dumps({**CHAT, "padding": "x" * 4000}).encode()

    async def pieces():
        for start in range(0, len(data), 500):
            yield data[start : start + 500]

    async with router.client.post(
        f"{router.url}/v1/chat/completions", data=pieces() if chunked else data
    ) as response:
        assert response.status == 413
        assert_error(await response.json(), "request_too_large")
    assert not engines[0].exchanges


async def test_too_many_open_requests(start_router, engines):
    """429 while the limit is reached, and an open door again afterwards."""
    router = await start_router(max_open_requests=1)
    router.admit(engines[0].url)
    engines[0].script.append(never_end)
    async with router.post(STREAM) as first:
        assert await first.content.readany()
        async with router.post(CHAT) as second:
            assert second.status == 429
            assert second.headers["retry-after"] == "1"
            assert_error(await second.json(), "rate_limit_exceeded", kind="rate_limit_error")
        first.close()
    await router.drained()
    async with router.post(CHAT) as third:
        assert third.status == 200


async def test_limit_on_open_requests_holds_for_bodies_under_way(start_router, engines):
    """A request counts from its first byte: many long bodies at once are not all taken into memory."""
    router = await start_router(max_open_requests=2)
    router.admit(engines[0].url)
    half = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    writers = []
    for _ in range(2):
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(half)
        await writer.drain()
        writers.append(writer)
    await asyncio.sleep(0.05)
    async with router.post(CHAT) as response:
        assert response.status == 429
    for writer in writers:
        writer.close()
    await asyncio.sleep(0.05)
    async with router.post(CHAT) as response:
        assert response.status == 200


async def test_api_keys(start_router, engines):
    """With keys configured everything of the API is closed without one."""
    router = await start_router(api_keys={"alice": "key-a"})
    router.admit(engines[0].url)
    for headers in ({}, {"authorization": "Bearer wrong"}):
        async with router.post(CHAT, headers=headers) as response:
            assert response.status == 401
            assert_error(await response.json(), "invalid_api_key")
        status, body = await router.get("/v1/models", **headers)
        assert status == 401
        assert_error(body, "invalid_api_key")
    assert not engines[0].exchanges
    async with router.post(CHAT, headers={"authorization": "Bearer key-a"}) as response:
        assert response.status == 200
    assert (await router.get("/v1/models", authorization="Bearer key-a"))[0] == 200
    assert (await router.get("/healthz"))[0] == 200


async def test_unknown_path_and_method(router):
    """404 and 405 look like every other error."""
    status, body = await router.get("/v1/nothing")
    assert status == 404
    assert_error(body, None)
    status, body = await router.get("/v1/chat/completions")
    assert status == 405
    assert_error(body, None)
    assert "GET" in body["error"]["message"]


# ---- what operators see ----


async def test_models_are_listed_also_when_no_replica_is_ready(router, engines):
    """The list comes from leases; an engine that is down does not break it."""
    router.admit(engines[0].url, "c", model="base", adapters=("lora",), state="starting", max_model_len=99)
    await engines[0].stop()
    status, body = await router.get("/v1/models")
    assert status == 200
    listed = {model["id"]: model for model in body["data"]}
    assert set(listed) == {"m", "base", "lora"}
    assert (listed["m"]["ready_replicas"], listed["base"]["ready_replicas"]) == (2, 0)
    assert (listed["lora"]["parent"], listed["lora"]["max_model_len"]) == ("base", 99)


async def test_health_names_what_is_degraded(router, engines):
    """Redis away, alarms of replicas and of tokenizers are said; the router is alive all the same."""
    router.admit(engines[0].url, alarms=("no KV events",))
    await eventually(lambda: not router.fleet.store_reachable)
    status, body = await router.get("/healthz")
    assert (status, body["status"]) == (200, "degraded")
    assert body["degraded"][0].startswith("Redis does not answer")
    assert "replica a: no KV events" in body["degraded"]


async def test_counts_that_differ_from_the_engines_switch_to_the_ring(start_router, engines):
    """Three replies with another prompt length raise the alarm, and requests go on without keys."""
    router = await start_router(policy="warm")
    router.admit(engines[0].url)
    await router.settled()
    for _ in range(3):
        async with router.post(CHAT) as response:
            await response.read()
    assert any("counted 15" in reason for reason in (await router.get("/healthz"))[1]["degraded"])
    async with router.post(CHAT) as response:
        assert response.status == 200
        assert response.headers["x-warmroute-reason"] != "warm"
        assert response.headers["x-warmroute-expected-cached-tokens"] == "0"


async def test_admin_shows_load_while_a_request_runs(router, engines):
    """Booked load is there during a stream and gone after it."""
    engines[0].script.append(never_end)
    async with router.post(STREAM) as response:
        await response.content.readany()
        body = (await router.get("/admin/replicas"))[1]
        assert body["open_bookings"] == 1
        assert [replica["load"]["booked"] for replica in body["replicas"]] == [1, 0]
        response.close()
    await router.drained()
    body = (await router.get("/admin/replicas"))[1]
    assert (body["open_bookings"], body["replicas"][0]["requests"]) == (0, 1)


async def test_blocks_of_a_replica(router):
    """What the check command reads."""
    router.fleet.apply(router.fleet.replicas["a"], [1, 255], (), cleared=False)
    status, body = await router.get("/admin/replicas/a/blocks")
    assert (status, body["epoch"], body["keys"]) == (200, 1, ["0000000000000001", "00000000000000ff"])
    assert (await router.get("/admin/replicas/nobody/blocks"))[0] == 404


async def test_metrics_after_requests(router):
    """Prometheus can read what happened."""
    async with router.post(STREAM) as response:
        await response.read()
    async with router.client.get(f"{router.url}/metrics") as response:
        text = await response.text()
    assert 'warmroute_requests_total{arm="default",model="m",outcome="ok",policy="round-robin"} 1.0' in text
    assert 'delivered_cached_tokens_total{arm="default",policy="round-robin",replica="a"} 4.0' in text
    assert "warmroute_open_bookings 0.0" in text


# ---- the event loop and Redis ----


async def test_nothing_blocks_the_event_loop(router):
    """No call of a request's life, streamed or not, waits for disk, network or a lock."""
    with blockbuster_ctx():
        for body in (CHAT, STREAM):
            async with router.post(body) as response:
                assert response.status == 200
                await response.read()
    await router.drained()


@pytest.mark.integration
async def test_router_follows_redis(start_router, engines, redis_server):
    """A replica's lease and blocks in Redis are enough: ready, routed, expected, and gone when it leaves."""
    router = await start_router(redis_url=redis_server.url, policy="warm", heartbeat_seconds=0.05)
    assert (await router.get("/readyz"))[0] == 503
    client = connect(redis_server.url)
    writer = OwnershipWriter(client, Keys("warmroute"), "gpu-0", 30.0, 100)
    lease = Lease(
        replica="gpu-0",
        url=engines[0].url,
        state=ReplicaState.READY,
        model="m",
        block_size=4,
        publishes_events=True,
    )
    await writer.open(lease, ())
    await router.ready()
    async with router.post(CHAT) as response:
        assert response.headers["x-warmroute-reason"] == "cold"
    replica = router.fleet.replicas["gpu-0"]
    await writer.publish(list(router.fleet.index.expected(replica.slot)), ())
    await eventually(lambda: router.fleet.index.num_owned(replica.slot) > 0)
    async with router.post(CHAT) as response:
        assert response.headers["x-warmroute-reason"] == "warm"
        assert int(response.headers["x-warmroute-expected-cached-tokens"]) > 0
    assert (await router.get("/healthz"))[1]["status"] == "ok"
    await writer.close()
    await eventually(lambda: not router.fleet.replicas)
    async with router.post(CHAT) as response:
        assert response.status == 404
    await router.drained()
    await client.aclose()
