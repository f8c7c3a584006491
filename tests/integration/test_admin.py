"""Operators act on a system of real processes while it serves."""

import asyncio
from typing import Any

import pytest

from tests.integration.system import WARMROUTE, System, eventually, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TOKEN = "a token of an integration test"


def chat(number: int) -> dict[str, Any]:
    """The first turn of one of many conversations."""
    text = f"Question {number}: " + "why " * 60
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": 8}


class Traffic:
    """Requests to all routers in turn, without a pause."""

    def __init__(self, system: System, routers: list[str]) -> None:
        self._system = system
        self._routers = routers
        self.sent = 0
        self.failed: list[str] = []

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.send(self.sent)

    async def send(self, number: int) -> str:
        """One request; returns where it went."""
        self.sent += 1
        url = f"{self._routers[number % len(self._routers)]}/v1/chat/completions"
        async with self._system.session.post(url, json=chat(number)) as response:
            received = await response.read()
            if response.status != 200 or b'"error"' in received or b"[DONE]" not in received:
                self.failed.append(f"{response.status} {received[-300:]!r}")
            return response.headers.get("x-warmroute-replica", "")


async def act(system: System, method: str, url: str, token: str = "") -> Any:
    """What an action answers; it must succeed."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with system.session.request(method, url, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_drain_and_resets_under_traffic(system: System) -> None:
    """Two routers agree on a drain, also when the agent is dead: no request fails, none arrives there.

    After the replica's blocks, and those of a prefix, were reset, `check` finds no difference.
    """
    engines = [await system.start_engine(0, "--step-ms", "5") for _ in range(3)]
    agents = [system.start_agent(url) for url, _ in engines]
    routers = [await system.start_router() for _ in range(2)]
    traffic = Traffic(system, routers)
    running = [asyncio.ensure_future(traffic.run()) for _ in range(6)]
    try:
        await eventually(lambda: _is(lambda: traffic.sent > 60), 30, "traffic")
        by_url = await system.replicas(routers[0])
        victim_url, victim = engines[0][0], by_url[engines[0][0]]["replica"]
        await act(system, "PUT", f"{routers[0]}/admin/replicas/{victim}/drain")

        async def drained() -> bool:
            seen = [(await system.replicas(router)).get(victim_url) for router in routers]
            return all(not one or (one["drained"] and not one["load"]["booked"]) for one in seen)

        await eventually(drained, 10, "both routers have drained it")
        computed = await _queries_of(system, victim_url)
        counted = await _requests_of(system, routers, victim)
        sent = traffic.sent
        await eventually(lambda: _is(lambda: traffic.sent > sent + 60), 30, "traffic goes on")
        assert await _requests_of(system, routers, victim) == counted
        assert await _queries_of(system, victim_url) == computed

        await act(system, "DELETE", f"{routers[1]}/admin/replicas/{victim}/drain")

        async def serves_again() -> bool:
            return await _requests_of(system, routers, victim) > counted

        await eventually(serves_again, 20, "it gets requests again")
        await act(system, "POST", f"{routers[1]}/admin/replicas/{victim}/reset")
        sent = traffic.sent
        await eventually(lambda: _is(lambda: traffic.sent > sent + 30), 30, "traffic goes on")
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert not traffic.failed, traffic.failed[:3]

    async def settled() -> bool:
        listings = [await system.get(f"{router}/admin/replicas") for router in routers]
        return all(listing["open_bookings"] == 0 for listing in listings)

    await eventually(settled, 10, "nothing is booked")
    blocks = f"{routers[0]}/admin/replicas/{victim}/blocks"

    async def read_again() -> bool:
        forgotten = system.log("router").count('"replica_reread"') == len(routers)
        return forgotten and bool((await system.get(blocks))["keys"])

    await eventually(read_again, 10, "its blocks are known again")
    key = (await system.get(blocks))["keys"][0]
    await act(system, "POST", f"{routers[0]}/admin/prefixes/{key}/reset")
    assert key not in (await system.get(blocks))["keys"]
    agents[0].kill()
    agents[0].wait()
    await act(system, "PUT", f"{routers[1]}/admin/replicas/{victim}/drain")
    await eventually(drained, 10, "both routers have drained it again")
    assert {await traffic.send(number) for number in range(500, 512)}.isdisjoint({victim})
    system.start_agent(victim_url)

    async def agree() -> bool:
        return (await asyncio.to_thread(system.check, *routers)).returncode == 0

    await eventually(agree, 30, "agents, Redis and routers agree")
    actions = [one["action"] for one in (await system.get(f"{routers[0]}/admin/audit"))["entries"]]
    assert actions == ["drain", "reset_prefix", "reset_replica", "undrain", "drain"]


async def test_token_from_the_environment(system: System) -> None:
    """A router for others is closed without its token, and open to the command line with it."""
    url, _ = await system.start_engine()
    system.start_agent(url)
    router = await system.start_router("--host", "0.0.0.0", "--admin-token", TOKEN)
    async with system.session.get(f"{router}/admin/overview") as response:
        assert response.status == 401
    async with system.session.get(
        f"{router}/admin/overview", headers={"Authorization": f"Bearer {TOKEN}"}
    ) as response:
        assert (await response.json())["fleet"]["ready"] == 1
    refused = system.check(router)
    assert refused.returncode == 2
    assert "WARMROUTE_ADMIN_TOKEN" in refused.stdout
    for command in (["check", "--redis-url", system.redis.url], ["status"]):
        done = system.start(
            command[0],
            [*WARMROUTE, *command, "--router-url", router],
            WARMROUTE_ADMIN_TOKEN=TOKEN,
        )
        assert await asyncio.to_thread(done.wait, 60) == 0, system.log(command[0])
    assert TOKEN not in system.log("router")


async def test_open_pages_do_not_keep_a_router_from_stopping(system: System) -> None:
    """With a page open, SIGTERM ends it soon, and not after the 10 s that streams may take."""
    port = free_port()
    process = system.start(
        "router", [*WARMROUTE, "router", "--redis-url", system.redis.url, "--port", str(port)]
    )
    url = f"http://127.0.0.1:{port}"
    await eventually(lambda: system.answers(f"{url}/healthz"), 60, "router answers")
    async with system.session.get(f"{url}/admin/stream") as response:
        assert b"event: overview" in await response.content.readline()
        process.terminate()
        await asyncio.to_thread(process.wait, 5)
        await response.read()


async def _requests_of(system: System, routers: list[str], replica_id: str) -> int:
    """How many requests of a replica have ended, by what all routers have counted."""
    total = 0
    for router in routers:
        listing = await system.get(f"{router}/admin/replicas")
        total += sum(one["requests"] for one in listing["replicas"] if one["replica"] == replica_id)
    return total


async def _queries_of(system: System, engine_url: str) -> float:
    """Prompt tokens that an engine has looked up in its cache, by its own count."""
    async with system.session.get(f"{engine_url}/metrics") as response:
        [line] = [
            line
            for line in (await response.text()).splitlines()
            if line.startswith("vllm:prefix_cache_queries_total")
        ]
    return float(line.rsplit(" ", 1)[1])


async def _is(condition: Any) -> bool:
    return bool(condition())
