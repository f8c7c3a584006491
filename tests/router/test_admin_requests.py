"""Requests explained, shared prefixes shown, and every path of the admin API documented."""

import asyncio
from urllib.parse import quote

import pytest

from cluster.sync import follower
from router.requests.endpoints import ENDPOINTS
from tests.router.test_requests import CHAT, assert_error
from tests.waiting import eventually

METHODS = ("get", "put", "post", "delete")


def chat(text):
    """A chat request with one long message."""
    return {**CHAT, "messages": [{"role": "user", "content": text}]}


async def test_a_request_is_explained_by_its_id(router):
    """By the one that its answer carries; of several with the same one from their clients each has another
    one of its own, and the clients' leads to the last.
    """
    own = []
    for _ in range(2):
        async with router.post(CHAT, headers={"X-Request-Id": "my/own id?"}) as response:
            assert response.headers["x-request-id"] == "my/own id?"
            chosen = response.headers["x-warmroute-replica"]
            own.append(response.headers["x-warmroute-request-id"])
    _, answer = await router.get("/admin/requests")
    summary, before = answer["requests"]
    assert [before["request_id"], summary["request_id"]] == own
    assert (summary["replica"], summary["outcome"]) == (chosen, "ok")
    assert (summary["delivered_tokens"], summary["prompt_tokens"]) == (4, 15)
    for wanted, name in ((before, own[0]), (summary, own[1]), (summary, "my/own id?")):
        status, explanation = await router.get(f"/admin/requests/{quote(name, safe='')}")
        assert status == 200
        assert wanted.items() <= explanation.items()
    assert [one["replica"] for one in explanation["candidates"] if one["chosen"]] == [chosen]
    assert sum(explanation["misses"].values()) == 11


async def test_what_is_not_remembered(router):
    """404, in the API's format; limits out of range are refused naming the parameter."""
    status, answer = await router.get("/admin/requests/unknown")
    assert status == 404
    assert_error(answer, "not_found", "request_id")
    for path in ("requests?limit=0", "requests?limit=1001", "requests?limit=x", "prefixes?limit=101"):
        status, answer = await router.get(f"/admin/{path}")
        assert status == 400
        assert_error(answer, None, "limit")


async def test_another_router_explains_it_too(start_router, redis_server, engines, monkeypatch):
    """A load balancer may ask any of them."""
    monkeypatch.setattr(follower, "MISSING_LEASE_SECONDS", 60)
    one, other = [await start_router(redis_url=redis_server.url) for _ in range(2)]
    await eventually(lambda: one.fleet.store_reachable and other.fleet.store_reachable)
    one.admit(engines[0].url, "a")
    await one.settled()
    async with one.post(CHAT) as response:
        request_id = response.headers["x-request-id"]

    status, explanation = 404, {}
    async with asyncio.timeout(5):
        while status == 404:
            status, explanation = await other.get(f"/admin/requests/{request_id}")
            await asyncio.sleep(0.02)
    own = (await one.get(f"/admin/requests/{request_id}"))[1]
    assert explanation == own | {"time": explanation["time"]}
    assert (await other.get("/admin/requests"))[1]["requests"][0]["request_id"] == request_id


async def test_shared_prefixes(router):
    """Where prompts part ways, how long that is, and who holds it; nothing of the text."""
    assert (await router.get("/admin/prefixes")) == (200, {"prefixes": [], "breakpoints": []})
    replica = router.fleet.replicas["a"]
    router.fleet.apply(replica, [1, 2, 3], [], cleared=False)
    for held in (2, 2, 2, 1):
        router.fleet.book(replica, [1, 2, 77], 14, 4 * held).release(0.0, succeeded=False)
    _, answer = await router.get("/admin/prefixes")
    assert [(one["key"], one["tokens"], one["holders"]) for one in answer["prefixes"]] == [
        ("0000000000000002", 8, ["a"]),
        ("0000000000000001", 4, ["a"]),
    ]
    popular = answer["prefixes"][0]
    assert popular["model"] == "m"
    assert popular["prompts"] == pytest.approx(3.0, abs=0.1)
    assert popular["share"] > answer["prefixes"][1]["share"] > 0
    assert len((await router.get("/admin/prefixes?limit=1"))[1]["prefixes"]) == 1


async def test_every_path_is_documented(router):
    """With its answer, its errors and the token, so that clients can be made from /openapi.json."""
    _, document = await router.get("/openapi.json")
    assert ENDPOINTS.keys() | {"/v1/models", "/v1/models/{name}"} <= document["paths"].keys()
    [scheme] = document["components"]["securitySchemes"]
    assert document["components"]["securitySchemes"][scheme]["scheme"] == "bearer"
    admin = {path: methods for path, methods in document["paths"].items() if path.startswith("/admin")}
    assert {
        "/admin/overview", "/admin/stream", "/admin/requests", "/admin/requests/{request_id}",
        "/admin/prefixes", "/admin/replicas", "/admin/bookings", "/admin/replicas/{replica_id}/blocks",
        "/admin/audit", "/admin/trends", "/admin/savings",
        "/admin/replicas/{replica_id}/drain", "/admin/replicas/{replica_id}/reset",
        "/admin/prefixes/{key}/reset", "/admin/policy", "/admin/experiment",
    } <= admin.keys()  # fmt: skip
    for path, methods in admin.items():
        for method in methods:
            operation = methods[method]
            assert method in METHODS
            assert operation["security"] == [{scheme: []}], path
            assert operation["description"], path
            [(media_type, content)] = operation["responses"]["200"]["content"].items()
            assert path == "/admin/stream" or content["schema"] not in ({}, {"type": "object"}), path
            assert media_type == ("text/event-stream" if path == "/admin/stream" else "application/json")
            for status in ("401", "403"):
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith("/ErrorAnswer"), path
            assert "422" not in operation["responses"], path
            if method == "put" and "drain" not in path:
                body = operation["requestBody"]["content"]["application/json"]["schema"]
                assert set(body["required"]) <= set(body["properties"])
