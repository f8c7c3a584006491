"""The admin API that switches policies and runs experiments, on a real router."""

import asyncio

import pytest

from cluster.store.steering import SteeringStore
from cluster.sync import follower
from policies.catalog import POLICIES
from router.steer import steering
from tests.router.test_requests import CHAT, assert_error
from tests.waiting import eventually

EXPERIMENT = {"control": "least-load", "share": 0.3}
BAD_WISHES = [
    ("policy", {"policy": "coin-toss"}, "policy", ", least-load, "),
    ("policy", {"policy": ""}, "policy", "choose one of"),
    ("policy", {"policy": 1}, "policy", "Expected `str`"),
    ("policy", {}, "policy", "missing"),
    ("policy", {"policy": "warm", "share": 0.1}, None, "share"),
    ("policy", b"{", None, "not valid JSON"),
    ("policy", b"[]", None, "must be a JSON object"),
    ("experiment", {"control": "coin-toss", "share": 0.1}, "control", ", least-load, "),
    ("experiment", {"control": "warm"}, "share", "missing"),
    ("experiment", {**EXPERIMENT, "share": 0}, "share", "> 0"),
    ("experiment", {**EXPERIMENT, "share": 1}, "share", "< 1"),
    ("experiment", {**EXPERIMENT, "share": "a lot"}, "share", "Expected `float`"),
    ("experiment", {**EXPERIMENT, "name": "two words"}, "name", "regex"),
    ("experiment", {**EXPERIMENT, "name": "x" * 65}, "name", "regex"),
]
"""Path, body, the field that is to blame, and what the message says of it."""


def conversation(number):
    """The first turn of one of many conversations."""
    return {**CHAT, "messages": [{"role": "user", "content": f"Hello {number}!"}], "stream": True}


async def call(router, method, path, body=None):
    """Status and decoded body."""
    content = {"data": body} if isinstance(body, bytes) else {"json": body}
    async with router.client.request(method, router.url + path, **content) as response:
        return response.status, await response.json()


@pytest.fixture
async def steered(start_router, engines, redis_server, monkeypatch):
    """A router with Redis and two engines, which rotates unless told otherwise."""
    monkeypatch.setattr(follower, "MISSING_LEASE_SECONDS", 60)  # these engines have no agents
    router = await start_router(redis_url=redis_server.url)
    await eventually(lambda: router.fleet.store_reachable)
    for name, engine in zip("ab", engines, strict=True):
        router.admit(engine.url, name)
    await router.ready()
    return router


async def policies_of(router, numbers):
    """The policy that decided the first turn of each conversation."""
    policies = {}
    for number in numbers:
        async with router.post(conversation(number)) as response:
            await response.read()
            policies[number] = response.headers["x-warmroute-policy"]
    return policies


async def test_switch_and_back(steered):
    """The next request is decided by the new policy; deleting it goes back to the setting."""
    assert await call(steered, "GET", "/admin/policy") == (
        200,
        {
            "policy": "round-robin",
            "set_by": "setting",
            "setting": "round-robin",
            "policies": sorted(POLICIES),
            "experiment": None,
        },
    )
    status, answer = await call(steered, "PUT", "/admin/policy", {"policy": "least-load"})
    assert (status, answer["policy"], answer["set_by"]) == (200, "least-load", "admin")
    assert await policies_of(steered, [1]) == {1: "least-load"}
    status, answer = await call(steered, "DELETE", "/admin/policy")
    assert (status, answer["policy"], answer["set_by"]) == (200, "round-robin", "setting")
    assert await policies_of(steered, [1]) == {1: "round-robin"}
    assert await call(steered, "DELETE", "/admin/policy") == (200, answer), "twice does no harm"


async def test_experiment_from_start_to_end(steered):
    """A part of the conversations is decided by the control, turn after turn, and both arms are counted."""
    assert await call(steered, "GET", "/admin/experiment") == (200, {"experiment": None})
    status, answer = await call(steered, "PUT", "/admin/experiment", EXPERIMENT)
    assert status == 200
    asked_for = {"name": "experiment", **EXPERIMENT}
    assert asked_for.items() <= answer["experiment"].items()
    first = await policies_of(steered, range(12))
    assert set(first.values()) == {"round-robin", "least-load"}
    assert await policies_of(steered, range(12)) == first
    await steered.drained()
    report = (await call(steered, "GET", "/admin/experiment"))[1]["experiment"]
    for arm, policy in (("default", "round-robin"), ("control", "least-load")):
        found, expected = report["arms"][arm], 2 * sum(one == policy for one in first.values())
        assert (found["policy"], found["requests"], found["failures"]) == (policy, expected, 0)
        assert found["prompt_tokens"] == 15 * expected
        assert found["delivered_cached_tokens"] == 4 * expected
        assert found["hit_rate"] == pytest.approx(4 / 15)
        assert found["ttft_seconds"]["samples"] == expected
        assert 0 < found["ttft_seconds"]["p50"] <= found["ttft_seconds"]["p99"] < 5
    assert report["default_minus_control"]["hit_rate"] is None, "12 conversations prove nothing"
    assert (await call(steered, "GET", "/admin/policy"))[1]["experiment"] == asked_for
    status, answer = await call(steered, "DELETE", "/admin/experiment")
    assert (status, answer["experiment"], answer["ended"]["arms"]) == (200, None, report["arms"])
    assert set((await policies_of(steered, range(12))).values()) == {"round-robin"}
    assert await call(steered, "DELETE", "/admin/experiment") == (200, {"experiment": None, "ended": None})


async def test_bad_choice_is_refused_naming_the_field(router):
    """In the API's error format, and before Redis is asked."""
    for path, body, param, says in BAD_WISHES:
        status, answer = await call(router, "PUT", f"/admin/{path}", body)
        assert status == 400, body
        assert_error(answer, None, param)
        assert says in answer["error"]["message"]


async def test_without_redis_nothing_is_decided(router):
    """503, and this router goes on as before: a decision for one router only is none."""
    for method, path, body in (
        ("PUT", "policy", {"policy": "least-load"}),
        ("DELETE", "policy", None),
        ("PUT", "experiment", EXPERIMENT),
        ("DELETE", "experiment", None),
    ):
        status, answer = await call(router, method, f"/admin/{path}", body)
        assert status == 503
        assert_error(answer, "redis_unavailable", kind="service_unavailable")
        assert "this one goes on as before" in answer["error"]["message"]
    _, answer = await call(router, "GET", "/admin/policy")
    assert (answer["policy"], answer["experiment"]) == ("round-robin", None)


async def test_not_ready_before_decisions_are_read(start_router, redis_server, monkeypatch):
    """A router that has just started must not serve with its setting where something else was decided."""
    unread, go_on, read = "the state in Redis has not been read yet", asyncio.Event(), SteeringStore.read

    async def read_late(store):
        await go_on.wait()
        return await read(store)

    monkeypatch.setattr(SteeringStore, "read", read_late)
    router = await start_router(redis_url=redis_server.url)
    await eventually(lambda: router.fleet.store_reachable)
    assert unread in (await router.get("/readyz"))[1]["missing"]
    go_on.set()
    await router._missing(lambda missing: unread not in missing)


async def test_body_has_a_bound(router):
    """A body larger than 64 KiB is not read."""
    status, answer = await call(router, "PUT", "/admin/policy", b"x" * 65_537)
    assert status == 413
    assert_error(answer, "request_too_large")


async def test_policy_unknown_to_this_router_is_said_in_healthz(steered, redis_server, monkeypatch):
    """A newer router may have set it; here the setting decides, visibly, until that is over."""
    monkeypatch.setattr(steering, "POLL_SECONDS", 0.01)
    redis_server.client("HSET", "warmroute:steering", "policy", "clairvoyant")

    async def degraded(expected):
        for _ in range(200):
            found = (await steered.get("/healthz"))[1]["degraded"]
            found = [one for one in found if not one.startswith("replica")]  # nobody renews their leases
            if found == expected:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(found)

    await degraded(["policy 'clairvoyant', set for all routers, is unknown here: 'round-robin' decides"])
    assert await policies_of(steered, [1]) == {1: "round-robin"}
    async with steered.client.get(steered.url + "/metrics") as response:
        assert 'warmroute_degraded{kind="steering"} 1.0' in await response.text()
    await call(steered, "DELETE", "/admin/policy")
    await degraded([])
