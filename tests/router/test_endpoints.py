"""The paths whose requests are passed on to an engine as they are."""

import asyncio
import io
import json

import pytest

from router.requests.endpoints import ENDPOINTS
from tests.router.fake_engine import DONE, die_before_headers, stream, whole
from tests.router.test_requests import CHAT, MESSAGES, assert_error
from tests.waiting import eventually

PASSED = [path for path, endpoint in ENDPOINTS.items() if not endpoint.keyed]
JSON_PATHS = [path for path in PASSED if ENDPOINTS[path].read is not None]
FORM_PATHS = [path for path in PASSED if ENDPOINTS[path].read is None]
SALTED = [path for path in JSON_PATHS if ENDPOINTS[path].salted]
BODY = b' {"input" : "\\u00e9", "model":"m",\n"seed":1e3}\n'
STREAMED = b'{"model":"m","stream":true,"input":"hi","messages":[{"role":"user","content":"hi"}]}'
ANSWER = b'{"data": [], "usage": {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0}}'
RESPONSE = (
    b'event: response.created\ndata: {"type":"response.created","response":{"error":null,"usage":null}}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"hi"}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":{"input_tokens":9,'
    b'"input_tokens_details":{"cached_tokens":4},"output_tokens":2,"total_tokens":11}}}\n\n',
)
MESSAGE = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":9}}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"hi"}}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"input_tokens":5,"output_tokens":2,'
    b'"cache_read_input_tokens":4}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
)
CHUNKS = (b'data: {"object":"transcription.chunk","choices":[{"delta":{"content":"hi"}}]}\n\n', DONE)
STREAMS = {"/v1/responses": RESPONSE, "/v1/messages": MESSAGE}
MESSAGE_ERROR = b'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"oh"}}\n\n'


def form(*fields):
    """A multipart body with these pairs of names and values, and a file; and its content type."""
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields
    ]
    file = (
        b'--edge\r\nContent-Disposition: form-data; filename="a;name=b.wav"; name="file"\r\n\r\n\x00\xff{[,'
    )
    return "\r\n".join(
        [*parts, ""]
    ).encode() + file + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


def post(router, path, body, content_type="application/json", **headers):
    """A request with exactly these bytes."""
    return router.client.post(
        router.url + path, data=io.BytesIO(body), headers={"content-type": content_type, **headers}
    )


@pytest.fixture
async def front(router, engines):
    """A router before two engines that serve every path."""
    for engine in engines:
        engine.also = set(ENDPOINTS)
        engine.otherwise = whole(ANSWER)
    return router


async def last_record(router):
    """What the router remembers of its last request."""
    _, answer = await router.get("/admin/requests")
    return answer["requests"][0]


@pytest.mark.parametrize("path", PASSED)
async def test_request_is_passed_on_as_it_is(front, engines, path):
    """The engine gets the client's bytes, the client the engine's, and the load is given back."""
    body, content_type = form(("model", "m")) if path in FORM_PATHS else (BODY, "application/json")
    async with post(front, path, body, content_type) as response:
        assert (response.status, await response.read()) == (200, ANSWER)
        assert response.headers["x-warmroute-reason"] == "least-load"
        assert response.headers["x-warmroute-policy"] == "least-load"
    [exchange] = [*engines[0].exchanges, *engines[1].exchanges]
    assert (exchange.path, exchange.body) == (path, body)
    assert exchange.headers["content-type"] == content_type
    await front.drained()
    record = await last_record(front)
    assert (record["path"], record["outcome"], record["model"]) == (path, "ok", "m")


@pytest.mark.parametrize(
    ("path", "asked", "tokens"),
    [
        ("/v1/embeddings", (b'{"model":"m","input":"%b"}' % (b"x" * 4000),), 1000),
        ("/tokenize", (b'{"model":"m","prompt":"%b"}' % (b"x" * 4000),), 1),
        ("/v1/audio/translations", form(("model", "m"), ("prompt", "x" * 32_000)), 100),
    ],
)
async def test_load_is_guessed_from_what_the_engine_has_to_compute(front, engines, path, asked, tokens):
    """By the size of the body; counting tokens is no work, and audio is not text."""
    booked = []

    async def look(exchange):
        booked.extend(replica.active_tokens for replica in front.fleet.replicas.values())
        await exchange.whole(b"{}")

    engines[0].otherwise = engines[1].otherwise = look
    async with post(front, path, *asked) as response:
        assert response.status == 200
    assert sum(booked) == pytest.approx(tokens, abs=1)
    await front.drained()


async def test_load_counts(front, engines):
    """Of two requests at the same time each engine gets one; without load both get some."""
    async with post(front, "/v1/embeddings", BODY):
        pass

    async def wait(exchange):
        await eventually(lambda: sum(len(engine.exchanges) for engine in engines) == 3)
        await exchange.whole(ANSWER)

    for engine in engines:
        engine.otherwise = wait
    seen = [len(engine.exchanges) for engine in engines]
    for response in await asyncio.gather(*[post(front, "/rerank", BODY) for _ in range(2)]):
        assert response.status == 200
    assert [len(engine.exchanges) - before for engine, before in zip(engines, seen, strict=True)] == [1, 1]
    for engine in engines:
        engine.otherwise = whole(ANSWER)
        engine.exchanges.clear()
    for _ in range(40):
        async with post(front, "/rerank", BODY) as response:
            assert response.status == 200
    assert all(engine.exchanges for engine in engines)
    await front.drained()


@pytest.mark.parametrize(("path", "events"), STREAMS.items())
async def test_stream_is_passed_on_with_its_own_end(front, engines, path, events):
    """Event by event, nothing added, and its usage is read."""
    engines[0].otherwise = engines[1].otherwise = stream(*events, pause=0.01)
    body = STREAMED
    async with post(front, path, body) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert await response.read() == b"".join(events)
    assert [*engines[0].exchanges, *engines[1].exchanges][0].body == body
    await front.drained()
    record = await last_record(front)
    assert (record["outcome"], record["prompt_tokens"], record["completion_tokens"]) == ("ok", 9, 2)
    assert record["delivered_tokens"] == 4


@pytest.mark.parametrize("path", FORM_PATHS)
async def test_stream_of_a_form(front, engines, path):
    """Asked for in a field of the form; it ends with ``[DONE]``."""
    engines[0].otherwise = engines[1].otherwise = stream(*CHUNKS)
    async with post(front, path, *form(("model", "m"), ("stream", "True"))) as response:
        assert await response.read() == b"".join(CHUNKS)
    await front.drained()
    assert (await last_record(front))["outcome"] == "ok"


@pytest.mark.parametrize(("path", "events"), [*STREAMS.items(), ("/v1/audio/transcriptions", CHUNKS)])
async def test_stream_that_breaks_off(front, engines, path, events):
    """The client gets an error in the stream's own format."""
    engines[0].otherwise = engines[1].otherwise = stream(*events[:-1])
    asked = form(("model", "m"), ("stream", "1")) if path in FORM_PATHS else (STREAMED,)
    async with post(front, path, *asked) as response:
        got = await response.read()
    assert got.startswith(b"".join(events[:-1]))
    rest = got.removeprefix(b"".join(events[:-1]))
    named = path in STREAMS
    assert rest.startswith(b"event: error\ndata: {" if named else b"data: {")
    assert rest.endswith(DONE) is not named
    error = json.loads(rest.partition(b"data: ")[2].partition(b"\n\n")[0])
    assert "broke off" in error["error"]["message"]
    assert not named or (error["type"], error["code"]) == ("error", "upstream_failed")
    await front.drained()
    assert (await last_record(front))["outcome"] == "broken"


async def test_error_ends_a_stream(front, engines):
    """An engine that reports one in the middle of its stream sends no other end, and gets none."""
    engines[0].otherwise = engines[1].otherwise = stream(MESSAGE[0], MESSAGE_ERROR)
    async with post(front, "/v1/messages", STREAMED) as response:
        assert await response.read() == MESSAGE[0] + MESSAGE_ERROR
    await front.drained()
    assert (await last_record(front))["outcome"] == "broken"


async def test_another_engine_is_asked_before_the_first_byte(front, engines):
    """An engine that dies, or begins its stream with an error, is not the end of a request."""
    for behave in (die_before_headers, stream(MESSAGE_ERROR)):
        for engine in engines:
            engine.exchanges.clear()
            engine.otherwise = behave
        script = [behave, stream(*MESSAGE)]

        async def in_turn(exchange, script=script):
            await script.pop(0)(exchange)

        engines[0].otherwise = engines[1].otherwise = in_turn
        async with post(front, "/v1/messages", STREAMED) as response:
            assert await response.read() == b"".join(MESSAGE)
        assert [len(engine.exchanges) for engine in engines] == [1, 1]
    await front.drained()


@pytest.mark.parametrize("path", [*PASSED, "/v1/chat/completions", "/v1/completions"])
async def test_model_may_be_left_out(front, engines, path):
    """Where there is one, as an engine does; of several the client has to choose."""
    bodies = {"/v1/chat/completions": {"messages": MESSAGES}, "/v1/completions": {"prompt": "hi"}}
    body, content_type = json.dumps(bodies.get(path, {"input": "hi"})).encode(), "application/json"
    if path in FORM_PATHS:
        body, content_type = form(("language", "en"))
    front.admit(engines[0].url, "a", aliases=("also-m",), adapters=("lora",))
    async with post(front, path, body, content_type) as response:
        assert response.status == 200
    assert body in [one.body for one in (*engines[0].exchanges, *engines[1].exchanges)]
    assert (await last_record(front))["model"] == "m"
    front.admit(engines[0].url, "c", model="other")
    async with post(front, path, body, content_type) as response:
        assert response.status == 400
        answer = await response.json()
    assert answer.pop("type", "error") == "error"
    assert_error(answer, None, "model")
    for replica in ("a", "b", "c"):
        front.fleet.dismiss(replica)
    async with post(front, path, body, content_type) as response:
        assert response.status == 503


async def test_model_decides_the_replica(front, engines):
    """Also the one that stands in a form; an unknown one is refused."""
    front.admit(engines[1].url, "b", model="org/other")
    for _ in range(5):
        async with post(front, "/v1/audio/translations", *form(("model", "org/other"))) as response:
            assert response.headers["x-warmroute-replica"] == "b"
        async with post(front, "/tokenize", b'{"prompt":"hi","model":"m"}') as response:
            assert response.headers["x-warmroute-replica"] == "a"
    for path, asked in (("/score", (b'{"model":"no"}',)), (FORM_PATHS[0], form(("model", "no")))):
        async with post(front, path, *asked) as response:
            assert response.status == 404
            assert_error(await response.json(), "model_not_found", "model")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"{", None),
        (b'{"model":5}', "model"),
        (b'{"model":"m","kv_transfer_params":{"do_remote_decode":true}}', "kv_transfer_params"),
        (
            b'{"model":"m","token_ids":[1],"sampling_params":{"extra_args":{"kv_transfer_params":{}}}}',
            "sampling_params.extra_args.kv_transfer_params",
        ),
        (b'{"model":"m","cache_salt":"a/b"}', "cache_salt"),
    ],
)
async def test_bad_body_reaches_no_engine(front, engines, body, param):
    """400 that names the field."""
    for path in JSON_PATHS:
        async with post(front, path, body) as response:
            assert response.status == 400
            answer = await response.json()
        if path.startswith("/v1/messages"):
            assert answer.pop("type") == "error"
        assert_error(answer, None, param)
    assert not any(engine.exchanges for engine in engines)


@pytest.mark.parametrize(
    ("body", "content_type", "param"),
    [
        (BODY, "application/json", None),
        (b"", "multipart/form-data", None),
        (b"", "multipart/form-data; boundary=edge", None),
        (form()[0][:-10], "multipart/form-data; boundary=edge", None),
        (*form(*[("x", "y")] * 100), None),
        (*form(("model", "m" * 300)), "model"),
        (*form(("model", "m"), ("kv_transfer_params", "{}")), "kv_transfer_params"),
    ],
)
async def test_bad_form_reaches_no_engine(front, engines, body, content_type, param):
    """400, whether it is none, is not complete, has too many parts, or says what no client may say."""
    async with post(front, FORM_PATHS[0], body, content_type) as response:
        assert response.status == 400
        assert_error(await response.json(), None, param)
    assert not any(engine.exchanges for engine in engines)


async def test_long_form_is_bounded_like_other_bodies(start_router, engines):
    """Megabytes of audio go to the engine; more than the limit is refused."""
    router = await start_router(*engines, max_body_bytes=4 * 1024 * 1024)
    engines[0].otherwise = engines[1].otherwise = whole(ANSWER)
    body, content_type = form(("model", "m"), ("prompt", "{[," * 700_000))
    async with post(router, FORM_PATHS[0], body, content_type) as response:
        assert response.status == 200
    assert [*engines[0].exchanges, *engines[1].exchanges][0].body == body
    body, content_type = form(("model", "m"), ("prompt", "x" * 4 * 1024 * 1024))
    async with post(router, FORM_PATHS[0], body, content_type) as response:
        assert response.status == 413
    await router.drained()


async def test_tenants_share_no_blocks(start_router, engines):
    """An engine that keeps blocks gets the tenant's salt besides the client's bytes, else these alone."""
    router = await start_router(*engines, api_keys={"a": ["key-a"]})
    await router.settled()
    for engine in engines:
        engine.also, engine.otherwise = set(PASSED), whole(ANSWER)
    salts = set()
    for path in JSON_PATHS:
        async with post(router, path, BODY) as response:
            assert response.status == 401
        async with post(router, path, BODY, authorization="Bearer key-a") as response:
            assert response.status == 200
        [sent] = [exchange.body for engine in engines for exchange in engine.exchanges]
        if path in SALTED:
            assert sent.startswith(BODY.rstrip()[:-1])
            salts.add(json.loads(sent)["cache_salt"])
        else:
            assert sent == BODY
        for engine in engines:
            engine.exchanges.clear()
    assert len(salts) == 1


async def test_engine_that_does_not_serve_a_path_says_so(front, engines):
    """Its refusal is the answer."""
    engines[0].otherwise = engines[1].otherwise = whole(b'{"error":{"message":"no"}}', 501)
    async with post(front, "/v1/responses", BODY) as response:
        assert (response.status, await response.read()) == (501, b'{"error":{"message":"no"}}')


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/v1/embeddings/", "/v1/embeddings"),
        ("/rerank/", "/rerank"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1//completions", "/v1/completions"),
        ("//v1/responses", "/v1/responses"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/tokenize", "/tokenize"),
    ],
)
async def test_path_that_is_almost_right(front, path, right):
    """404 that names the right one, and no redirect."""
    async with front.client.post(front.url + path, json=CHAT, allow_redirects=False) as response:
        assert response.status == 404
        body = await response.json()
    assert_error(body, None)
    assert body["error"]["message"].endswith(f"Use {right}.")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("POST", "/v1/images"),
        ("GET", "/"),
    ],
)
async def test_path_that_does_not_exist(front, method, path):
    """404 in the API's format, which names what there is."""
    async with front.client.request(method, front.url + path) as response:
        assert response.status == 404
        body = await response.json()
    assert_error(body, None)
    for known in (*ENDPOINTS, "/v1/models", "/health"):
        assert known in body["error"]["message"]


async def test_one_model(start_router, engines):
    """Its name may hold slashes; who may ask is as for all of them."""
    router = await start_router(engines[0], api_keys={"a": ["key-a"]})
    router.admit(engines[0].url, "c", model="org/name", max_model_len=64, adapters=("x/y/z",))
    assert (await router.get("/v1/models/m"))[0] == 401
    status, model = await router.get("/v1/models/org/name", authorization="Bearer key-a")
    assert (status, model["id"], model["max_model_len"]) == (200, "org/name", 64)
    status, model = await router.get("/v1/models/x%2Fy/z", authorization="Bearer key-a")
    assert (status, model["id"], model["parent"]) == (200, "x/y/z", "org/name")
    status, body = await router.get("/v1/models/none", authorization="Bearer key-a")
    assert status == 404
    assert_error(body, "model_not_found", "model")
    status, body = await router.get("/v1/models/", authorization="Bearer key-a")
    assert (status, body["error"]["message"].endswith("Use /v1/models.")) == (404, True)


async def test_health_version_and_ping(start_router, engines):
    """As an engine answers them: 503 while nothing takes requests, and nothing in the body."""
    router = await start_router()
    asked = [("GET", "/health"), ("HEAD", "/health"), ("GET", "/ping"), ("POST", "/ping")]
    for expected in (503, 200):
        for method, path in asked:
            async with router.client.request(method, router.url + path) as response:
                assert (response.status, await response.read()) == (expected, b"")
        router.admit(engines[0].url)
    async with router.client.head(router.url + "/v1/models") as response:
        assert (response.status, await response.read()) == (200, b"")
    status, version = await router.get("/version")
    assert (status, set(version)) == (200, {"version"})


async def test_client_that_leaves_frees_the_engine(front, engines):
    """A stream of another format ends with its client."""

    async def never_end(exchange):
        await exchange.head()
        while not exchange.gone.is_set():
            await exchange.chunk(MESSAGE[1])

    engines[0].otherwise = engines[1].otherwise = never_end
    async with post(front, "/v1/messages", STREAMED) as response:
        await response.content.readany()
    await front.drained()
    [exchange] = [*engines[0].exchanges, *engines[1].exchanges]
    await eventually(exchange.gone.is_set)
