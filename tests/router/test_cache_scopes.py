"""Resets and lifetimes of caches change the salt, so that no old block is found at any replica."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.store import operator_commands
from cluster.store.operator_commands import CacheResets, Kind, OperatorCommand, cache_resets, outdated
from router.requests.bodies import parse_body
from router.requests.prompt_threads import PromptThreads
from router.steer import steering
from router.tenants.cache_scopes import CacheScope, CacheScopes
from router.tenants.keys import Tenant
from tests.router.test_admin_actions import pair
from tests.router.test_admin_steering import call
from tests.router.test_requests import CHAT, assert_error
from tests.waiting import eventually

assert pair  # a fixture

times = st.floats(1, 100).map(lambda seconds: round(seconds, 3))
commands = st.dictionaries(
    st.sampled_from(["", "tenant=a", "tenant=b", "model=m", "model=n"]),
    times.map(lambda at: OperatorCommand(True, at)),
).map(lambda by_target: {(Kind.RESET_CACHE, target): command for target, command in by_target.items()})


def scope_at(now, tenant=Tenant("a", "a"), resets=CacheResets()):  # noqa: B008 - both cannot change
    """The scope of a tenant's requests at a time."""
    scopes = CacheScopes(lambda: now)
    scopes.resets = resets
    return scopes.of(tenant)


@given(commands, st.sampled_from(["", "tenant=a", "tenant=b", "model=m", "model=n"]), times)
def test_a_later_reset_changes_what_it_names(issued, target, later):
    """And nothing else; what a reset of everything covers can be forgotten without changing a scope."""
    newest = max((command.at for command in issued.values()), default=0.0)
    after = {**issued, (Kind.RESET_CACHE, target): OperatorCommand(True, newest + later)}
    kept = {name: command for name, command in after.items() if name not in outdated(after, 1e12)}

    def scopes(by_name):
        resets = cache_resets(by_name)
        return {
            (f"tenant={name}", f"model={model}"): scope_at(0, Tenant(name, name), resets).of(model, b"")
            for name in "ab"
            for model in "mn"
        }

    before, now = scopes(issued), scopes(after)
    for whose, scope in now.items():
        assert (scope != before[whose]) == (not target or target in whose)
    assert scopes(kept) == now


def test_requests_that_name_no_model_heed_the_reset_of_any():
    """Which one they mean is found out later."""
    resets = CacheResets(models={"m": 5.0})
    assert scope_at(0, resets=resets).of("", b"") != scope_at(0).of("", b"")
    assert scope_at(0, resets=resets).of("n", b"") == scope_at(0).of("n", b"")


@given(st.integers(1, 10_000), st.floats(0, 1e9), st.sampled_from(["a", "b", ""]))
def test_nothing_is_used_longer_than_its_lifetime(seconds, now, name):
    """Within a lifetime the scope changes exactly once."""
    tenant = Tenant(name, name, cache_seconds=seconds)
    scopes = [scope_at(now + seconds * part / 8, tenant).of("m", b"") for part in range(9)]
    assert scopes[0] != scopes[-1]
    assert len(set(scopes)) == 2
    assert scope_at(now, Tenant(name, name)) == scope_at(now + seconds, Tenant(name, name))


def test_lifetimes_of_tenants_end_at_different_times():
    """A hundred tenants with one lifetime do not all compute their prompts anew in the same tenth of it."""
    ends = {}
    for name in map(str, range(100)):
        tenant = Tenant(name, name, cache_seconds=1000)
        first = scope_at(0, tenant)
        end = next(now for now in range(0, 1001, 10) if scope_at(now, tenant) != first)
        ends[end // 100] = ends.get(end // 100, 0) + 1
    assert max(ends.values()) < 30


@pytest.mark.parametrize("values", [1, 100_000])
async def test_salt_is_the_same_wherever_a_body_is_parsed(values):
    """On the event loop and in a process of its own."""
    raw = b'{"model":"m","messages":[{"role":"user","content":"x"}],"a":[' + b"1," * values + b"1]}"
    threads = PromptThreads()
    scope = CacheScope("tenant", 5.0, "7", private=True, models={"m": 6.0})
    try:
        call = await parse_body("/v1/chat/completions", raw, scope, threads, "client")
    finally:
        threads.close()
    small = await parse_body(
        "/v1/chat/completions", raw.partition(b',"a"')[0] + b"}", scope, PromptThreads(), "client"
    )
    assert call.cache_salt == small.cache_salt != ""


async def salt(router, engine_exchanges, body=CHAT):
    """What an engine was sent."""
    async with router.post(body) as response:
        assert response.status == 200
        await response.read()
    return engine_exchanges()[-1].json.get("cache_salt")


async def test_reset_reaches_all_routers_within_a_second(pair, engines):
    """While requests go on, none of which fails; afterwards no engine is sent the old salt."""
    one, other = pair

    def last():
        return max((engine.exchanges for engine in engines), key=lambda all_of: len(all_of))

    assert await salt(other, last) is None
    seen, stop = [], asyncio.Event()

    async def ask():
        while not stop.is_set():
            async with other.post(CHAT) as response:
                assert response.status == 200
                await response.read()
            await asyncio.sleep(0.02)

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.1)
    status, answer = await call(one, "POST", "/admin/caches/reset")
    began = time.monotonic()
    assert (status, answer["tenant"], answer["model"]) == (200, None, None)
    sent = len(engines[0].exchanges) + len(engines[1].exchanges)
    assert sent
    await eventually(
        lambda: any("cache_salt" in one.json for engine in engines for one in engine.exchanges), seconds=1
    )
    assert time.monotonic() - began < 1
    await asyncio.sleep(0.1)
    stop.set()
    await asking
    for engine in engines:
        seen += [one.json.get("cache_salt") for one in engine.exchanges[-2:]]
    assert len(set(seen)) == 1
    assert seen[0]
    entries = (await call(one, "GET", "/admin/audit"))[1]["entries"]
    assert entries[0]["action"] == "reset_caches"


async def test_reset_of_a_model_holds_for_all_its_names(pair, engines):
    """Also for requests by another of its names; an unknown model and both at once are refused."""
    one, _ = pair
    for name, engine in zip("ab", engines, strict=True):
        one.admit(engine.url, name, aliases=("n",))
    assert (await call(one, "POST", "/admin/caches/reset?model=n"))[0] == 200
    for model in ("m", "n"):
        async with one.post({**CHAT, "model": model}) as response:
            assert response.status == 200
    for engine in engines:
        assert all("cache_salt" in exchange.json for exchange in engine.exchanges)
    status, body = await call(one, "POST", "/admin/caches/reset?model=unknown")
    assert status == 404
    assert_error(body, "not_found", "model")
    status, body = await call(one, "POST", "/admin/caches/reset?model=m&tenant=a")
    assert status == 400
    assert_error(body, None, "tenant")


async def test_resets_are_bounded(pair, monkeypatch):
    """Beyond the bound everything is reset, and the single ones are forgotten."""
    monkeypatch.setattr(operator_commands, "MAX_CACHES", 5)
    monkeypatch.setattr(steering, "POLL_SECONDS", 0.02)
    one, _ = pair
    for number in range(6):
        assert (await call(one, "POST", f"/admin/caches/reset?tenant=t{number}"))[0] == 200
    scopes = one.app.endpoints["/v1/chat/completions"].scopes
    await eventually(lambda: scopes.resets.everything > 0)
    assert not scopes.resets.tenants
