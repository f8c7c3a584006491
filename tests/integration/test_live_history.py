"""The past as real routers tell it: the sums of all of them, and equal to the engines' own."""

import asyncio
import re
import signal

import pytest

from router.explain.misses import Reason
from tests.integration.system import System, end, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

OPENING = "You are a helpful assistant. Be brief and kind to all people. " * 8
TURNS = 4


async def converse(system: System, router: str, number: int) -> None:
    """One conversation through one router, streamed."""
    messages = [{"role": "system", "content": OPENING}]
    for turn in range(TURNS):
        messages.append(
            {"role": "user", "content": f"Conversation {number}, turn {turn}: " + "and then? " * 20}
        )
        body = {"model": "tiny", "max_tokens": 8, "messages": messages, "stream": True}
        async with system.session.post(f"{router}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            await response.read()
        messages.append({"role": "assistant", "content": "And then it went on."})


async def engine_counts(system: System, url: str) -> tuple[float, float]:
    """Prompt tokens that an engine has looked up in its cache, and those it found."""
    async with system.session.get(f"{url}/metrics") as response:
        text = await response.text()
    queries, hits = (
        sum(float(value) for value in re.findall(rf"^vllm:prefix_cache_{name}_total\S* (\S+)$", text, re.M))
        for name in ("queries", "hits")
    )
    return queries, hits


async def test_routers_tell_what_engines_count(system: System) -> None:
    """Two routers: each shows per replica exactly what its engine counted, also after the other was killed;
    what a router that ends had saved is not lost."""
    engines = [(await system.start_engine())[0] for _ in range(2)]
    system.start_agent(*engines)
    routers = [await system.start_router() for _ in range(2)]
    killed, ended = (process for process in system.processes if "router" in process.args)
    await asyncio.gather(*(converse(system, routers[number % 2], number) for number in range(8)))

    counted = {url: await engine_counts(system, url) for url in engines}
    assert all(hits > 0 for _, hits in counted.values())
    names = {url: replica["replica"] for url, replica in (await system.replicas(routers[0])).items()}

    async def agrees(router: str) -> bool:
        steps = (await system.get(f"{router}/admin/trends?seconds=600"))["steps"]
        told = {
            url: tuple(sum(step["replicas"].get(name, [0, 0, 0])[at] for step in steps) for at in (1, 2))
            for url, name in names.items()
        }
        misses = sum(
            step["sums"].get(str(reason), 0) for step in steps for reason in range(10, 10 + len(Reason))
        )
        return told == counted and misses == sum(queries - hits for queries, hits in counted.values())

    for router in routers:
        await eventually(lambda router=router: agrees(router), 40, "history equals the engines' counts")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert await agrees(routers[1])
    late = await system.start_router()
    await eventually(lambda: agrees(late), 10, "a router that starts knows the last hour")
    report = await system.get(f"{routers[1]}/admin/savings?hours=2")
    assert report["total"]["requests"] == 8 * TURNS // 2
    assert report["total"]["saved_seconds"] > 0
    assert sum(part["count"] for each in report["ttft"] for part in (each["warm"], each["cold"])) == 8 * TURNS
    end(ended)
    assert (await system.get(f"{late}/admin/savings?hours=2"))["total"] == report["total"]
