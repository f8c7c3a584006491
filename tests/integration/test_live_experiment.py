"""Policies and experiments with real processes: what one router is told holds for all."""

from typing import Any

import pytest

from tests.integration.system import System, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CONVERSATIONS = 40


async def ask(system: System, router: str, method: str, path: str, **body: Any) -> tuple[int, Any]:
    """Status and JSON of an admin request."""
    async with system.session.request(method, f"{router}/admin/{path}", json=body) as response:
        return response.status, await response.json()


async def turn(system: System, router: str, number: int, length: int) -> str:
    """One turn of a conversation; returns the policy that decided it."""
    messages = [{"role": "user", "content": f"Conversation {number}: " + "why " * 40}]
    for _ in range(length - 1):
        messages += [{"role": "assistant", "content": "because"}, {"role": "user", "content": "why"}]
    body = {"model": "tiny", "messages": messages, "stream": True, "max_tokens": 2}
    async with system.session.post(f"{router}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        await response.read()
        return response.headers["x-warmroute-policy"]


async def test_decision_at_one_router_holds_for_all(system: System) -> None:
    """A switch is followed within a second, and an experiment gets its share, each conversation in one arm at
    both routers. Either router reports both routers' counts. Without Redis nothing changes any more.
    """
    engines = [await system.start_engine() for _ in range(2)]
    system.start_agent(*(url for url, _ in engines))
    one, other = [await system.start_router() for _ in range(2)]

    async def in_force(router: str, **expected: Any) -> bool:
        _, answer = await ask(system, router, "GET", "policy")
        return bool(expected.items() <= answer.items())

    status, answer = await ask(system, one, "PUT", "policy", policy="least-load")
    assert (status, answer["policy"]) == (200, "least-load")
    await eventually(lambda: in_force(other, policy="least-load", set_by="admin"), 1.5, "the other follows")
    assert await turn(system, other, 0, 1) == "least-load"

    wish = {"control": "round-robin", "share": 0.4, "name": "trial"}
    status, _ = await ask(system, other, "PUT", "experiment", **wish)
    assert status == 200
    await eventually(lambda: in_force(one, experiment=wish), 1.5, "the first one follows")

    decided: dict[int, set[str]] = {}
    for length in (1, 2):
        for router in (one, other):
            for number in range(CONVERSATIONS):
                decided.setdefault(number, set()).add(await turn(system, router, number, length))
    assert all(len(policies) == 1 for policies in decided.values()), "a conversation changed its arm"
    share = sum(policies == {"round-robin"} for policies in decided.values()) / CONVERSATIONS
    assert 0.2 < share < 0.6

    async def all_counted(router: str) -> bool:
        _, answer = await ask(system, router, "GET", "experiment")
        arms = answer["experiment"]["arms"]
        return (
            answer["experiment"]["routers"],
            arms["control"]["requests"],
            arms["default"]["requests"],
        ) == (
            2,
            round(4 * CONVERSATIONS * share),
            round(4 * CONVERSATIONS * (1 - share)),
        )

    await eventually(lambda: all_counted(one), 5, "both routers' requests are counted")
    await eventually(lambda: all_counted(other), 5, "both routers' requests are counted")
    _, answer = await ask(system, one, "GET", "experiment")
    for arm in answer["experiment"]["arms"].values():
        assert arm["failures"] == 0
        assert arm["hit_rate"] > 0.3
        assert arm["ttft_seconds"]["samples"] == arm["requests"]

    system.redis.stop()
    for method, path, body in (
        ("PUT", "policy", {"policy": "warm"}),
        ("DELETE", "policy", {}),
        ("DELETE", "experiment", {}),
    ):
        status, answer = await ask(system, one, method, path, **body)
        assert (status, answer["error"]["code"]) == (503, "redis_unavailable")
    for router in (one, other):
        assert await in_force(router, policy="least-load", experiment=wish)
    assert {await turn(system, one, number, 3) for number in range(5)} == set().union(
        *(decided[number] for number in range(5))
    )

    async def accepted() -> bool:
        return (await ask(system, one, "DELETE", "experiment"))[0] == 200

    system.redis.start()  # empty: the routers' memory is all there is
    await eventually(accepted, 10, "decisions are taken again")
    await eventually(lambda: in_force(other, policy="least-load", experiment=None), 1.5, "the other follows")
    assert (await ask(system, other, "DELETE", "policy"))[1]["policy"] == "warm"
