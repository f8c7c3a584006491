"""The whole path with real processes: Redis, simulated engines, agent and router as a user starts them."""

import asyncio
import json
import signal
from typing import Any

import pytest

from loadtest.studies.conversations import compare, possible_tokens
from tests.integration.system import System, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

BLOCK_SIZE = 16


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """A chat request with one user message."""
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


async def test_conversations_stay_on_their_blocks(system: System) -> None:
    """Later turns go to the replica of the turn before, which delivers 95% of what is possible or more.

    Afterwards agents, Redis and the router agree on every block, and nothing is booked.
    """
    engines = [await system.start_engine() for _ in range(2)]
    system.start_agent(*(url for url, _ in engines))
    router = await system.start_router()

    [contestant] = await compare(
        {"warm": router}, "tiny", num_conversations=6, num_turns=4, concurrency=3, max_tokens=24, seed=3
    )

    pairs = [pair for c in contestant.conversations for pair in zip(c.turns, c.turns[1:], strict=False)]
    assert all(previous.replica == turn.replica for previous, turn in pairs)
    delivered = sum(turn.cached_tokens for _, turn in pairs)
    possible = sum(possible_tokens(previous, turn, BLOCK_SIZE) for previous, turn in pairs)
    assert delivered >= 0.95 * possible
    assert len({turn.replica for _, turn in pairs}) == 2, "one replica stayed idle"
    answer = await system.get(f"{router}/admin/replicas")
    assert answer["open_bookings"] == 0
    assert sum(r["delivered_cached_tokens"] for r in answer["replicas"]) == sum(
        turn.cached_tokens for c in contestant.conversations for turn in c.turns
    )
    checked = system.check(router)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("no difference") == 2


async def test_killed_engine_loses_no_request_that_had_not_streamed(system: System) -> None:
    """After kill -9 of an engine, streams that had begun end with an error event, all others succeed.

    The restarted engine has a new epoch and owns nothing; all bookings return to zero.
    """
    engines = [await system.start_engine(0, "--step-ms", "30") for _ in range(2)]
    system.start_agent(*(url for url, _ in engines))
    router = await system.start_router()
    before = await system.replicas(router)
    (victim_url, victim), (other_url, _) = engines

    async def one(number: int) -> tuple[bool, bytes]:
        """Whether the answer had begun when the engine was killed, and all of it."""
        body = chat(f"Question {number}: " + "why " * 60, stream=True, max_tokens=60)
        async with system.session.post(f"{router}/v1/chat/completions", json=body) as response:
            assert response.status == 200, await response.text()
            begun, received = False, b""
            async for part in response.content.iter_any():
                begun = begun or not killed.is_set()
                received += part
            return begun, received

    killed = asyncio.Event()
    waves = [asyncio.ensure_future(one(number)) for number in range(16)]
    await asyncio.sleep(0.7)
    waves += [asyncio.ensure_future(one(number)) for number in range(16, 32)]
    await asyncio.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    killed.set()
    waves += [asyncio.ensure_future(one(number)) for number in range(32, 40)]
    outcomes = await asyncio.gather(*waves)

    broken = [(begun, received) for begun, received in outcomes if b'"error"' in received]
    assert broken, "the engine was killed too late to break a stream"
    for begun, received in broken:
        assert begun
        error = json.loads(received.split(b"data: ")[-2])
        assert error["error"]["code"] == "upstream_failed"
        assert received.endswith(b"data: [DONE]\n\n")
    assert all(received.endswith(b"data: [DONE]\n\n") for _, received in outcomes)

    async def released() -> bool:
        answer = await system.get(f"{router}/admin/replicas")
        return bool(answer["open_bookings"] == 0)

    await eventually(released, 5, "all bookings returned")
    await system.start_engine(int(victim_url.rsplit(":", 1)[1]))

    async def back() -> bool:
        replica = (await system.replicas(router)).get(victim_url)
        return bool(replica and replica["state"] == "ready" and replica["owned_blocks"] == 0)

    await eventually(back, 20, "the engine is back and owns nothing")
    after = await system.replicas(router)
    assert after[victim_url]["epoch"] > before[victim_url]["epoch"]
    assert after[other_url]["epoch"] == before[other_url]["epoch"]
    assert system.check(router).returncode == 0


async def test_leaving_client_stops_the_engine(system: System) -> None:
    """When a client leaves in the middle of a stream, the engine stops and the booking returns."""
    url, _ = await system.start_engine(0, "--step-ms", "20")
    system.start_agent(url)
    router = await system.start_router()
    body = chat("Tell me everything.", stream=True, max_tokens=5000)
    async with system.session.post(f"{router}/v1/chat/completions", json=body) as response:
        await response.content.readany()
        assert (await system.get(f"{router}/admin/replicas"))["open_bookings"] == 1

    async def idle() -> bool:
        replica = (await system.replicas(router))[url]
        return bool(replica["load"] == {**replica["load"], "booked": 0, "running": 0, "waiting": 0})

    await eventually(idle, 5, "engine and router idle")


async def test_engine_without_events_is_used_with_an_alarm(system: System) -> None:
    """An engine that publishes no KV events serves requests by ring and load, and /healthz names it."""
    url, _ = await system.start_engine(0, "--no-kv-events")
    system.start_agent(url)
    router = await system.start_router()
    async with system.session.post(f"{router}/v1/chat/completions", json=chat("Hello")) as response:
        assert response.status == 200
        assert response.headers["x-warmroute-expected-cached-tokens"] == "0"
    health = await system.get(f"{router}/healthz")
    assert health["status"] == "degraded"
    assert any(url.removeprefix("http://").replace(":", "-") in line for line in health["degraded"])


async def test_agent_that_stops_takes_its_replicas_along(system: System) -> None:
    """When an agent is asked to end, its leases are gone at once and nothing of it stays in Redis."""
    url, _ = await system.start_engine()
    agent = system.start_agent(url)
    router = await system.start_router()
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0

    async def gone() -> bool:
        return not await system.replicas(router)

    await eventually(gone, 1, "replica gone")
    async with system.session.post(f"{router}/v1/chat/completions", json=chat("Hello")) as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "no_replica_ready"
