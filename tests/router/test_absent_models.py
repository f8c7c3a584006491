"""A model that was served a while ago may be there again in a moment: 503 with Retry-After, never 404."""

import asyncio

import pytest

from cluster.fleet import replicas
from cluster.fleet.replicas import GONE_SECONDS, MAX_GONE, ServedNames
from cluster.protocol.wire import ReplicaState
from router.health import new_names
from tests.router.fake_engine import stay_silent, whole
from tests.waiting import eventually

ASK = {"messages": [{"role": "user", "content": "hi"}]}


async def answer(router, model):
    """Status, code and Retry-After of a request for a model."""
    async with router.post({"model": model, **ASK}) as response:
        error = (await response.json())["error"]
        return response.status, error["code"], response.headers.get("retry-after")


async def test_model_whose_last_replica_went_is_awaited(router, engines, monkeypatch):
    """By each of its names, for a while; one that never was there is unknown all along."""
    router.admit(engines[0].url, "c", model="other", aliases=("alias",), adapters=("lora",))
    assert router.fleet.models["alias"]
    router.fleet.dismiss("c")
    for name in ("other", "alias", "lora"):
        assert await answer(router, name) == (503, "no_replica_ready", "2")
    assert await answer(router, "never") == (404, "model_not_found", None)
    _, listed = await router.get("/v1/models")
    assert {model["id"] for model in listed["data"]} == {"m"}
    router.admit(engines[0].url, "c", model="other")
    async with router.post({"model": "other", **ASK}) as response:
        assert response.status == 200
    assert await answer(router, "alias") == (503, "no_replica_ready", "2")
    monkeypatch.setattr(replicas, "GONE_SECONDS", 0.0)
    assert await answer(router, "alias") == (404, "model_not_found", None)


@pytest.mark.parametrize("path", ["chat", "models"])
async def test_adapter_that_was_just_loaded_is_looked_up(router, engines, path):
    """One engine serves it, and its lease does not say so yet: the request waits until it does."""
    engines[1].served = ["m", "new"]

    async def ask():
        if path == "models":
            return (await router.get("/v1/models/new"))[0]
        async with router.post({"model": "new", **ASK}) as response:
            return response.status

    asking = asyncio.create_task(ask())
    await eventually(lambda: engines[1].searches == 1)
    await asyncio.sleep(0.02)
    assert not asking.done()
    router.admit(engines[1].url, "b", adapters=("new",))
    assert await asking == 200
    assert len(engines[1].exchanges) == (path == "chat")
    assert engines[0].searches == engines[1].searches == 1


async def test_name_whose_lease_does_not_come(router, engines, monkeypatch):
    """It is there, so the client may try again."""
    monkeypatch.setattr(new_names, "LEASE_SECONDS", 0.1)
    engines[0].served = ["new"]
    assert await answer(router, "new") == (503, "no_replica_ready", "2")


async def test_searches_are_rare_and_shared(router, engines, monkeypatch):
    """However many clients ask for whatever, ready engines are asked once in a while; nobody's answer comes
    from a search that had begun before the question.
    """
    monkeypatch.setattr(new_names, "PAUSE_SECONDS", 0.2)
    router.admit(engines[1].url, "b", state=ReplicaState.ASLEEP)
    assert await answer(router, "never") == (404, "model_not_found", None)
    assert engines[0].searches == 1
    answers = await asyncio.gather(*(answer(router, f"never{number}") for number in range(50)))
    assert set(answers) == {(404, "model_not_found", None)}
    assert (engines[0].searches, engines[1].searches) == (2, 0)


@pytest.mark.parametrize("reply", [stay_silent, whole(b"{"), whole(b"\xff"), whole(b"[]", 500)])
async def test_engine_that_cannot_say_what_it_serves(router, engines, monkeypatch, reply):
    """It serves nothing new, as far as is known."""
    monkeypatch.setattr(new_names, "HEALTH_SECONDS", 0.1)
    engines[0].models = reply
    assert await answer(router, "never") == (404, "model_not_found", None)


@pytest.mark.parametrize("trouble", ["unreachable", "full"])
async def test_router_that_knows_of_nothing_because_of_redis_says_so(start_router, engines, trouble):
    """It was started while Redis did not serve: which models there are it cannot know."""
    router = await start_router()
    router.fleet.store_reachable = trouble == "full"
    router.fleet.store.refusal = "OOM" if trouble == "full" else ""
    assert await answer(router, "m") == (503, "no_replica_ready", "2")
    router.admit(engines[0].url)
    assert await answer(router, "never") == (404, "model_not_found", None)


async def test_model_that_goes_between_rendering_and_decision(router, engines):
    """Its request is not told that it never was."""
    replica = router.admit(engines[0].url, "c", model="other", state=ReplicaState.READY)
    assert router.fleet.models["other"].replicas == (replica,)

    async def dies(exchange):
        router.fleet.dismiss("c")
        exchange.abort()

    engines[0].script.append(dies)
    engines[0].script.append(dies)
    status, code, _ = await answer(router, "other")
    assert (status, code) == (503, "no_replica_ready")


def test_names_are_bounded_and_forgotten():
    """Those that went first go first."""
    names = ServedNames()
    names.note([f"model {number}" for number in range(MAX_GONE + 5)], 0.0)
    names.note([], 1.0)
    assert not names.has("model 4", 1.0)
    assert names.has("model 5", 1.0)
    assert not names.has("model 5", 1.0 + GONE_SECONDS)
    names.note(["model 6"], 2.0)
    assert not names.has("model 6", 2.0)
