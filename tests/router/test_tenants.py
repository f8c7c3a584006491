"""Tenants do not see in each other's caches, unless they are told to share."""

import pytest

from cluster.prompts.tokenizer import PromptTokenizer
from tests.router.fake_engine import counted
from tests.router.test_requests import CHAT, STREAM

KEYS = {"alice": ("key-a", "key-a2"), "bob": ("key-b",)}
LONG = {**CHAT, "messages": [{"role": "user", "content": "tell me of caches " * 10}]}


def by(key):
    """The headers of a client with this key."""
    return {"authorization": f"Bearer {key}"}


async def expected(router, body, key):
    """Tokens that the router expects the engine to have, and why it chose that."""
    async with router.post(body, headers=by(key)) as response:
        assert response.status == 200
        await response.read()
        return int(response.headers["x-warmroute-expected-cached-tokens"]), response.headers[
            "x-warmroute-reason"
        ]


@pytest.fixture
async def warmed(start_router, engines, tiny_model):
    """Starts a router whose engine has just computed a prompt of alice's."""
    engines[0].otherwise = counted(len(PromptTokenizer(tiny_model).chat(LONG).token_ids))

    async def start(**settings):
        router = await start_router(engines[0], api_keys=KEYS, policy="warm", **settings)
        await router.settled()
        assert await expected(router, LONG, "key-a") == (0, "cold")
        replica = router.fleet.replicas["a"]
        router.fleet.apply(replica, list(router.fleet.index.expected(replica.slot)), (), cleared=False)
        return router

    return start


async def test_another_tenants_prompt_is_unseen(warmed, engines):
    """Only the same tenant finds it, with whichever of its keys; the engine keeps them apart, too."""
    router = await warmed()
    warm, reason = await expected(router, LONG, "key-a2")
    assert warm > 0
    assert reason == "warm"
    assert await expected(router, LONG, "key-b") == (0, "cold")
    salts = [exchange.json["cache_salt"] for exchange in engines[0].exchanges]
    assert salts[0] == salts[1] != salts[2]


async def test_a_tenants_own_salts_still_separate(warmed):
    """What a client separates stays separate, and another tenant cannot name it."""
    router = await warmed()
    salted = {**LONG, "cache_salt": "user-7"}
    assert (await expected(router, salted, "key-a"))[0] == 0
    assert (await expected(router, salted, "key-a"))[0] > 0
    assert (await expected(router, salted, "key-b"))[0] == 0


@pytest.mark.parametrize("share", ["alice+bob", "bob+alice", "*"])
async def test_tenants_that_share(warmed, share, engines):
    """The prompt counts as seen; where all share, engines get what clients have sent."""
    router = await warmed(share_cache=share)
    assert (await expected(router, LONG, "key-b"))[0] > 0
    assert ("cache_salt" in engines[0].exchanges[-1].json) == (share != "*")


async def test_without_keys_nothing_is_added(start_router, engines):
    """The client's bytes go on as they came."""
    router = await start_router(engines[0])
    async with router.post(b'{"model":"m","messages":[{"role":"user","content":"x"}] }') as response:
        assert response.status == 200
    assert engines[0].exchanges[0].body == b'{"model":"m","messages":[{"role":"user","content":"x"}] }'


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(("hide", "hidden"), [("bob", False), ("alice", True), ("*", True)])
async def test_headers_about_caches_can_be_hidden(start_router, engines, hide, hidden, body):
    """From some tenants or from all; the request's id always stays."""
    router = await start_router(engines[0], api_keys=KEYS, hide_cache_headers=hide)
    async with router.post(body, headers=by("key-a")) as response:
        told = [name for name in response.headers if name.lower().startswith("x-warmroute")]
        assert (not told) == hidden
        assert response.headers["x-request-id"]


async def test_models_are_listed_with_every_key(start_router):
    """Also with one whose characters are no ASCII."""
    router = await start_router(api_keys="zoë=schlüssel,zoë=b")
    for key in ("schlüssel", "b"):
        async with router.client.get(router.url + "/v1/models", headers=by(key)) as response:
            assert response.status == 200
    assert (await router.get("/v1/models", authorization="Bearer c"))[0] == 401
