"""What replicas are called, and what they serve, with real processes: names in any order, adapters that come,
engines that sleep, blocks of another size, and two agents that want one id.
"""

import asyncio
import subprocess
from typing import Any

import pytest

from tests.integration.system import System, end, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TEXT = "the people look for water and find it over there " * 20


async def chat(system: System, router: str, model: str, text: str = TEXT) -> tuple[str, int, int]:
    """Replica, and the cached tokens that were predicted and delivered."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
    async with system.session.post(f"{router}/v1/chat/completions", json=body) as response:
        answer: Any = await response.json()
        assert response.status == 200, answer
        predicted = int(response.headers["x-warmroute-expected-cached-tokens"])
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return response.headers["x-warmroute-replica"], predicted, cached


async def post(system: System, url: str, body: Any = None) -> None:
    """What operators do at engines."""
    async with system.session.post(url, json=body) as response:
        assert response.status == 200, await response.text()


async def test_names_sleep_and_sizes(system: System) -> None:
    """Two engines have the names of their model in different orders. A conversation is found whichever name a
    client uses; an adapter that was just loaded is served at once; a conversation whose engine sleeps goes on
    elsewhere without a wait, and the engine is used again once it is awake; an engine with blocks of another
    size is an alarm as long as it is there.
    """
    options = ("--dev-mode", "--lora-updating")
    first, _ = await system.start_engine(0, "--alias", "other", *options)
    second, _ = await system.start_engine(0, "--served-model-name", "other", "--alias", "tiny", *options)
    system.start_agent(first, second)
    router = await system.start_router()
    urls = {f"127.0.0.1-{url.rpartition(':')[2]}": url for url in (first, second)}

    async def has_state(replica: str, state: str) -> bool:
        return (await system.replicas(router))[urls[replica]]["state"] == state

    async def both_ready() -> bool:
        return [one["state"] for one in (await system.replicas(router)).values()] == ["ready", "ready"]

    await eventually(both_ready, 20, "both replicas are ready")
    replica, *_ = await chat(system, router, "tiny")

    async def is_found() -> bool:
        there, predicted, cached = await chat(system, router, "other")
        return there == replica and predicted == cached > 100

    await eventually(is_found, 5, "blocks are found under the other name")
    assert (await chat(system, router, "tiny"))[0] == replica

    for url in urls.values():
        await post(system, f"{url}/v1/load_lora_adapter", {"lora_name": "new", "lora_path": "/new"})
    assert (await chat(system, router, "new"))[2] == 0

    await post(system, f"{urls[replica]}/sleep")
    asleep = asyncio.create_task(chat(system, router, "tiny"))  # perhaps before anybody has noticed
    assert (await asyncio.wait_for(asleep, 10))[0] != replica
    await eventually(lambda: has_state(replica, "asleep"), 5, "the engine is known to sleep")
    await post(system, f"{urls[replica]}/wake_up")
    await eventually(lambda: has_state(replica, "ready"), 5, "the engine is known to be awake")
    other = next(name for name in urls if name != replica)
    await post(system, f"{urls[other]}/sleep")
    await eventually(lambda: has_state(other, "asleep"), 5, "the other engine is known to sleep")
    there, predicted, cached = await chat(system, router, "tiny")
    assert (there, predicted, cached) == (replica, 0, 0), "level 1 has discarded the cache"
    await post(system, f"{urls[other]}/wake_up")

    third, process = await system.start_engine(0, "--block-size", "32")
    agent = system.start_agent(third)

    async def complains() -> bool:
        said = (await system.get(f"{router}/healthz"))["degraded"]
        return any("blocks of 32 tokens" in text for text in said)

    async def is_content() -> bool:
        return not await complains()

    await eventually(complains, 20, "the other block size is named")
    end(agent)
    end(process)
    await eventually(is_content, 10, "nothing is said of it any more")


def refusal(agent: "subprocess.Popen[bytes]", system: System) -> str:
    """What a process says that ends by itself with the code of a refused start."""
    assert agent.wait(60) == 2, system.log("agent")
    [line] = [line for line in system.log("agent").splitlines() if line.startswith("warmroute: ")]
    return line


async def test_second_agent_is_refused_in_one_line(system: System) -> None:
    """It names the replica and the remedy; the first agent goes on, and one after it may begin at once."""
    engine, _ = await system.start_engine()
    first = system.start_agent(engine)
    router = await system.start_router()
    before = await system.replicas(router)
    second = system.start_agent(engine)
    line = await asyncio.to_thread(refusal, second, system)
    assert "another agent publishes replica" in line
    assert "--replica-id" in line
    after = await system.replicas(router)
    assert after[engine]["epoch"] == before[engine]["epoch"]
    first.kill()
    first.wait()
    system.start_agent(engine)

    async def is_taken_over() -> bool:
        replica = (await system.replicas(router)).get(engine, after[engine])
        return bool(replica["state"] == "ready" and replica["epoch"] > after[engine]["epoch"])

    await eventually(is_taken_over, 30, "the next agent publishes the replica")
