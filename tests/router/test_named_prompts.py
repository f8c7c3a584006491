"""Requests that name a prompt: which version they get, on all routers, and how it is kept warm."""

import asyncio
import json

import pytest

from cluster.store.store import connect
from router.prefixes import catalog, warmer
from router.steer import steering
from tests.router.test_admin_actions import pair
from tests.router.test_admin_steering import call
from tests.router.test_requests import assert_error
from tests.waiting import eventually

assert pair  # a fixture
PUSH = {"messages": [{"role": "system", "content": "You help with caches. " * 20}]}
NEXT = {"messages": [{"role": "system", "content": "You help with everything. " * 20}]}


@pytest.fixture
async def routers(pair, monkeypatch):
    """Two routers that look at everything often."""
    for module, name in ((catalog, "POLL_SECONDS"), (steering, "POLL_SECONDS"), (warmer, "LOOK_SECONDS")):
        monkeypatch.setattr(module, name, 0.02)
    await asyncio.sleep(0.5)  # they may have begun to wait for as long as before
    return pair


async def eventually_true(ask_for):
    """Ask until the answer is true."""
    for _ in range(200):
        if await ask_for():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not within 4 s")


async def push(router, body, prompt_id="support", expected=200):
    """Push a version."""
    async with router.client.put(f"{router.url}/admin/prompts/{prompt_id}", json=body) as response:
        answer = await response.json()
        assert response.status == expected, answer
        return answer


async def activate(router, version, share=1.0, expected=200):
    """Activate a version."""
    body = {"version": version, "share": share}
    async with router.client.post(f"{router.url}/admin/prompts/support/activate", json=body) as response:
        answer = await response.json()
        assert response.status == expected, answer
        return answer


async def ask(router, prompt, *texts, path="/v1/chat/completions"):
    """Ask with a named prompt. Returns status, the version named in the answer, and the answer."""
    messages = [{"role": "user", "content": text} for text in texts or ("Hi",)]
    async with router.post({"model": "m", "prompt": prompt, "messages": messages}, path) as response:
        return response.status, response.headers.get("x-warmroute-prompt"), await response.json()


def sent(engines):
    """All bodies that engines were sent by clients, in no order."""
    return [one.json for engine in engines for one in engine.exchanges if one.path == "/v1/chat/completions"]


async def test_prompt_takes_the_place_of_its_name(routers, engines):
    """On every router; the engine gets the fixed messages first, then the client's."""
    one, other = routers
    answer = await push(one, PUSH)
    assert (list(answer["versions"]), answer["active"]["version"]) == (["1"], 1)
    await eventually(lambda: bool(other.app.endpoints["/v1/chat/completions"].prompts.store.known.active))
    for router in routers:
        assert (await ask(router, {"id": "support"}))[:2] == (200, "support@1")
        assert (await ask(router, {"id": "support", "version": "1"}))[:2] == (200, "support@1")
    for body in sent(engines):
        assert "prompt" not in body
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert body["messages"][0]["content"] == PUSH["messages"][0]["content"].strip()


async def test_responses_name_prompts_too(routers, engines):
    """Before a text as input, or a list of items."""
    one, _ = routers
    await push(one, PUSH)
    for given in ("Hi", [{"role": "user", "content": "Hi"}]):
        body = {"model": "m", "prompt": {"id": "support"}, "input": given}
        async with one.post(body, "/v1/responses") as response:
            await response.read()
            assert response.headers["x-warmroute-prompt"] == "support@1"
    bodies = [one.json for engine in engines for one in engine.exchanges if one.path == "/v1/responses"]
    assert [[item["role"] for item in body["input"]] for body in bodies] == [["system", "user"]] * 2


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ({"id": "unknown"}, "prompt.id"),
        ({}, "prompt.id"),
        ({"id": 7}, "prompt.id"),
        ({"id": "support", "version": "9"}, "prompt.version"),
        ({"id": "support", "version": "1.5"}, "prompt.version"),
        ({"id": "support", "version": {}}, "prompt.version"),
        ({"id": "support", "variables": []}, "prompt"),
    ],
)
async def test_wrong_names_are_refused(routers, prompt, param):
    """With the field, as other mistakes."""
    one, _ = routers
    await push(one, PUSH)
    status, _, body = await ask(one, prompt)
    assert (status, body["error"]["param"]) == (400, param)


async def test_bodies_stay_as_they_were_without_prompts(start_router, engines):
    """What engines do with the field is theirs."""
    router = await start_router(engines[0])
    raw = b'{"model":"m","prompt":{"id":"x"},"messages":[{"role":"user","content":"x"}] }'
    async with router.post(raw) as response:
        assert response.status == 200
    assert engines[0].exchanges[0].body == raw


async def test_versions_never_change(routers):
    """The same content is the same version, another one under its number is refused, and so is retiring the
    active one."""
    one, _ = routers
    await push(one, PUSH)
    assert list((await push(one, PUSH))["versions"]) == ["1"]
    assert list((await push(one, {**PUSH, "version": 1}))["versions"]) == ["1"]
    assert_error(await push(one, {**NEXT, "version": 1}, expected=409), "conflict")
    assert list((await push(one, NEXT))["versions"]) == ["1", "2"]
    for version, expected in ((1, 409), (9, 409), (2, 200)):
        async with one.client.delete(f"{one.url}/admin/prompts/support/{version}") as response:
            assert response.status == expected
    assert_error(await activate(one, 2, expected=404), "not_found", "version")
    assert (await ask(one, {"id": "support", "version": 2}))[0] == 400
    actions = [entry["action"] for entry in (await call(one, "GET", "/admin/audit"))[1]["entries"]]
    assert actions == ["retire_prompt", *["push_prompt"] * 4]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({}, "messages"),
        ({**PUSH, "copies": 0}, "copies"),
        ({**PUSH, "mesages": []}, None),
        ({"messages": [{"role": "system", "content": "{{name}}"}]}, "messages[0].content"),
    ],
)
async def test_wrong_templates_are_refused(routers, body, param):
    """Before anything is written."""
    one, _ = routers
    assert (await push(one, body, expected=400))["error"]["param"] == param
    assert (await call(one, "GET", "/admin/prompts"))[1] == {"prompts": []}


async def test_running_conversations_stay_with_their_version(routers):
    """New ones get the new version, or a share of them does."""
    one, _ = routers
    await push(one, PUSH)
    assert (await ask(one, {"id": "support"}, "old"))[1] == "support@1"
    await push(one, NEXT)
    await activate(one, 2)
    assert (await ask(one, {"id": "support"}, "old", "and then?"))[1] == "support@1"
    assert (await ask(one, {"id": "support"}, "new"))[1] == "support@2"
    await activate(one, 2, 0.25)
    versions = [(await ask(one, {"id": "support"}, f"conversation {number}"))[1] for number in range(60)]
    assert 4 <= versions.count("support@2") <= 30
    assert len(set(versions)) == 2


async def test_lost_prompts_are_written_again(routers, redis_server):
    """Redis that comes back empty gets them from a router."""
    one, other = routers
    await push(one, PUSH)
    await eventually(lambda: bool(other.app.endpoints["/v1/chat/completions"].prompts.store.known.active))
    async with connect(redis_server.url) as redis:
        await redis.delete("warmroute:prompts")
        await eventually_true(lambda: redis.exists("warmroute:prompts"))
    for router in routers:
        assert (await ask(router, {"id": "support"}))[:2] == (200, "support@1")


async def test_activation_warms_the_new_version_where_the_old_one_is(routers, engines):
    """Before a client gets it, each replica that held the old one has computed the new one."""
    one, _ = routers
    await push(one, PUSH)
    await ask(one, {"id": "support"})
    for name in ("a", "b"):  # both hold what was sent
        replica = one.fleet.replicas[name]
        keys = [key for each in one.fleet.replicas.values() for key in one.fleet.index.expected(each.slot)]
        one.fleet.apply(replica, keys, (), cleared=False)
    before = len(sent(engines))
    await push(one, NEXT)
    answer = await activate(one, 2)
    assert answer["warmed"] == 2
    warmed = sent(engines)[before:] if len(engines) == 1 else sent(engines)
    new = [
        body for body in warmed if body["messages"][0]["content"] == NEXT["messages"][0]["content"].strip()
    ]
    assert len(new) == 2
    assert {body["max_tokens"] for body in new} == {1}
    assert {json.dumps(body["messages"][0]) for body in new} == {json.dumps(new[0]["messages"][0])}


async def test_evicted_prompt_is_computed_again(routers, engines, monkeypatch):
    """While it is in use, on as many replicas as it should have, by one of the routers."""
    monkeypatch.setattr(warmer, "SHARE", 1.0)
    one, other = routers
    await push(one, {**PUSH, "copies": 2})
    await eventually(lambda: bool(other.app.endpoints["/v1/chat/completions"].prompts.store.known.active))
    for router in routers:
        await ask(router, {"id": "support"})

    def copies():
        return {
            number
            for number, engine in enumerate(engines)
            if any(one.json.get("max_tokens") == 1 for one in engine.exchanges)
        }

    await eventually(lambda: copies() == {0, 1})
    assert one.fleet.open_bookings <= 2


async def test_difference_of_versions_in_tokens(routers):
    """How long each is, and how much of it both begin with."""
    one, _ = routers
    await one.settled()
    await push(one, PUSH)
    await push(one, {"messages": [*PUSH["messages"], {"role": "user", "content": "And of routers."}]})
    status, answer = await call(one, "GET", "/admin/prompts/support/difference?old=1&new=2")
    assert status == 200
    assert 0 < answer["shared_tokens"] <= answer["old_tokens"] < answer["new_tokens"]
    status, same = await call(one, "GET", "/admin/prompts/support/difference?old=1&new=1")
    assert same["shared_tokens"] == same["old_tokens"] == same["new_tokens"]
    assert (await call(one, "GET", "/admin/prompts/support/difference?old=1&new=3"))[0] == 404
