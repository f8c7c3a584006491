"""A prompt that requests name stays in engines' caches while others evict everything, and at little cost."""

import asyncio
import random
import sys
from typing import Any

import pytest

from tests.integration.system import System, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TEXT = "You help customers of Acme with their parcels, and never promise what is not written here. "
NUM_ASKED = 6
EVERY_SECONDS = 3.0
FILLER_SECONDS = 0.3


async def test_named_prompt_survives_eviction(system: System) -> None:
    """Requests find it, where a text of the same length that is sent along has mostly been evicted."""
    engines = [(await system.start_engine(0, "--num-blocks", "400"))[0] for _ in range(2)]
    system.start_agent(*engines)
    router = await system.start_router()

    async def two() -> bool:
        return len(await system.replicas(router)) == 2

    await eventually(two, 20, "both replicas are there")
    push = {"messages": [{"role": "system", "content": TEXT * 20}], "copies": 2}
    async with system.session.put(f"{router}/admin/prompts/support", json=push) as response:
        assert response.status == 200, await response.text()
    found: dict[str, list[float]] = {"named": [], "sent": []}
    computed = 0

    async def ask(kind: str | None, body: dict[str, Any]) -> None:
        nonlocal computed
        async with system.session.post(
            f"{router}/v1/chat/completions", json={"model": "tiny", "max_tokens": 1, **body}
        ) as response:
            answer = await response.json()
            assert response.status == 200, answer
        usage = answer["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        computed += usage["prompt_tokens"] - cached
        if kind:
            found[kind].append(cached / usage["prompt_tokens"])

    async def fill() -> None:
        words = random.Random(1)
        while True:
            content = f"{words.random()} " + " ".join(f"{words.randrange(10**6)}" for _ in range(200))
            fillers.append(
                asyncio.create_task(ask(None, {"messages": [{"role": "user", "content": content}]}))
            )
            await asyncio.sleep(FILLER_SECONDS)

    fillers: list[asyncio.Task[None]] = []
    filling = asyncio.create_task(fill())
    inline = [{"role": "system", "content": "Otherwise. " + TEXT * 20}, {"role": "user", "content": "Hi"}]
    for _ in range(NUM_ASKED + 1):
        question = {"messages": [{"role": "user", "content": "Hi"}]}
        await asyncio.gather(
            ask("named", {"prompt": {"id": "support"}, **question}), ask("sent", {"messages": inline})
        )
        await asyncio.sleep(EVERY_SECONDS)
    filling.cancel()
    await asyncio.gather(*fillers)
    hits = {kind: sum(share > 0.9 for share in shares[1:]) for kind, shares in found.items()}
    sys.stdout.write(f"found of {NUM_ASKED}: {hits}; {computed} tokens computed for clients\n")
    assert hits["named"] >= NUM_ASKED - 1
    assert hits["sent"] <= NUM_ASKED / 2
