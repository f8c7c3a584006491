"""Requests that reach no engine, each with a clear error."""

import json

import pytest

from cluster.protocol.wire import ReplicaState
from router.errors import UnknownModelError
from tests.router.fake_engine import never_end
from tests.router.test_requests import CHAT, STREAM, assert_error


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", b"{", None),
        ("/v1/chat/completions", b"[]", None),
        ("/v1/chat/completions", {**CHAT, "model": 1}, "model"),
        ("/v1/embeddings", {**CHAT, "cache_salt": "@"}, "cache_salt"),
        (
            "/v1/chat/completions",
            {**CHAT, "kv_transfer_params": {"prompt_token_ids": [1]}},
            "kv_transfer_params",
        ),
    ],
)
async def test_bad_input_reaches_no_engine(router, engines, path, body, param):
    """What no engine may or can get is answered with 400 and the field's name."""
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
    assert body["error"]["message"] == f"The model 'gpt-9' does not exist. There is {CHAT['model']!r}."


def test_an_error_lists_some_models_only():
    """Ten names, and how many more there are."""
    message = UnknownModelError("x", [f"m{number}" for number in range(12)]).message
    assert message.endswith("'m9' and 2 more (GET /v1/models).")


async def test_an_alias_stands_for_a_model(start_router, engines):
    """The engine gets its own name for the model, and the rest of the body as it was written; the list of
    models shows both. What is no alias is left alone."""
    router = await start_router(model_aliases=f"gpt-4o={CHAT['model']}")
    router.admit(engines[0].url)
    await router.settled()
    async with router.post(json.dumps({**CHAT, "model": "gpt-4o", "top_p": 1e0}).encode()) as response:
        assert response.status == 200
    assert json.loads(engines[0].exchanges[-1].body) == {**CHAT, "top_p": 1.0}
    async with router.client.get(f"{router.url}/v1/models") as response:
        assert {one["id"] for one in (await response.json())["data"]} == {"gpt-4o", CHAT["model"]}
    async with router.client.get(f"{router.url}/v1/models/gpt-4o") as response:
        assert (await response.json())["id"] == "gpt-4o"
    async with router.post({**CHAT, "model": "gpt-9"}) as response:
        assert response.status == 404


async def test_prompt_that_does_not_fit(start_router, engines):
    """400 with the code that clients look for; no engine is bothered."""
    router = await start_router()
    router.admit(engines[0].url, max_model_len=8)
    await router.settled()
    async with router.post(CHAT) as response:
        assert response.status == 400
        assert_error(await response.json(), "context_length_exceeded", "messages")
    assert not engines[0].exchanges


async def test_prompt_goes_where_it_fits(start_router, engines):
    """Of replicas with different contexts those are asked whose context it fits, ready or, in need, out of
    reach; 503 when they are away, and 400 when there are none.
    """
    router = await start_router()
    router.admit(engines[0].url, "a", max_model_len=8)
    router.admit(engines[1].url, "b", max_model_len=9)
    await router.settled()
    async with router.post(CHAT) as response:
        assert response.status == 400
        assert "9 tokens" in (await response.json())["error"]["message"]
    for state in (ReplicaState.READY, ReplicaState.UNREACHABLE):
        router.admit(engines[1].url, "b", max_model_len=4096, state=state)
        for _ in range(4):
            async with router.post(CHAT) as response:
                assert (response.status, response.headers["x-warmroute-replica"]) == (200, "b")
    router.admit(engines[1].url, "b", max_model_len=4096, state=ReplicaState.STARTING)
    async with router.post(CHAT) as response:
        assert response.status == 503
        body = await response.json()
    assert_error(body, "no_replica_ready", kind="service_unavailable")
    assert "room for" in body["error"]["message"]
    assert not engines[0].exchanges
    await router.drained()


@pytest.mark.parametrize("state", [ReplicaState.STARTING, ReplicaState.DRAINING, ReplicaState.UNREACHABLE])
async def test_no_replica_ready(router, engines, state):
    """503 and when to try again, while the model stays known; those out of reach have been tried in vain."""
    for name, engine in zip("ab", engines, strict=True):
        await engine.stop()
        router.admit(engine.url, name, state=state)
    async with router.post(STREAM) as response:
        assert response.status == 503
        assert int(response.headers["retry-after"]) > 0
        assert_error(await response.json(), "no_replica_ready", kind="service_unavailable")
    await router.drained()


async def test_replicas_that_only_seem_to_be_out_of_reach(router, engines):
    """An engine may be too busy for its agent: better ask it than refuse, but not one out of service."""
    router.admit(engines[0].url, "a", state=ReplicaState.UNREACHABLE)
    router.admit(engines[1].url, "b", state=ReplicaState.UNREACHABLE)
    router.fleet.drain({"b"})
    for body in (CHAT, STREAM, CHAT):
        async with router.post(body) as response:
            assert (response.status, response.headers["x-warmroute-replica"]) == (200, "a")
            await response.read()
    router.fleet.drain({"a", "b"})
    async with router.post(CHAT) as response:
        assert response.status == 503
    await router.drained()


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_too_large(start_router, engines, chunked):
    """413, whether the length was announced or not."""
    router = await start_router(engines[0], max_body_bytes=2048)
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
    router = await start_router(engines[0], max_open_requests=1)
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


async def test_api_keys(start_router, engines):
    """With keys configured everything of the API is closed without one."""
    router = await start_router(engines[0], api_keys={"alice": "key-a"})
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
