"""Every reason for computing tokens again, provoked on real processes and attributed by a real router."""

import json
import signal
from typing import Any

import pytest

from tests.integration.system import System, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

OPENING = "You are a helpful assistant. Today is Sunday. " + "Be brief and kind to all people. " * 12
QUESTION = "Tell me about prefix caching, please. " * 8


class Client:
    """Sends conversations, and reads what the router logged of them."""

    def __init__(self, system: System, router: str) -> None:
        self._system = system
        self.router = router
        self._asked = 0
        self.computed = 0
        """Tokens that engines did not find in their caches, by the replies."""

    async def ask(self, *messages: tuple[str, str], **fields: Any) -> dict[str, Any]:
        """The log line of one request, and its answer under ``content``."""
        body = {
            "model": "tiny",
            "max_tokens": 8,
            "messages": [{"role": role, "content": content} for role, content in messages],
            **fields,
        }
        url = f"{self.router}/v1/chat/completions"
        async with self._system.session.post(url, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
            request_id = response.headers["x-request-id"]
        usage = answer["usage"]
        self.computed += usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        found: list[dict[str, Any]] = []

        async def logged() -> bool:
            lines = [line for line in self._system.log("router").splitlines() if request_id in line]
            found.extend(json.loads(line) for line in lines)
            return bool(found)

        await eventually(logged, 5, "the request is logged")
        line = found[0]
        computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        assert sum(line["misses"].values()) == computed
        return {**line, "content": answer["choices"][0]["message"]["content"]}

    async def settled(self) -> None:
        """Wait until the router knows what the engines have stored and given up."""

        async def agree() -> bool:
            return self._system.check(self.router).returncode == 0

        await eventually(agree, 20, "agents, Redis and the router agree")


async def test_every_reason(system: System) -> None:
    """Cold, diverged, other namespace, diverted, evicted, lost with its replica, tail, unknown.

    The sum of all reasons is exactly what engines computed: by the replies, the metrics, and their own
    counters.
    """
    options = ("--num-blocks", "150", "--lora", "adapter")
    engines = [await system.start_engine(0, *options) for _ in range(2)]
    system.start_agent(*(url for url, _ in engines))
    client = Client(system, await system.start_router())

    first = [("system", OPENING), ("user", QUESTION)]
    line = await client.ask(*first)
    assert set(line["misses"]) == {"cold", "tail"}
    second = [*first, ("assistant", line["content"]), ("user", "And how is it done? " * 8)]
    await client.settled()
    line = await client.ask(*second)
    assert set(line["misses"]) == {"cold", "tail"}
    holder = line["replica"]

    await client.settled()
    changed = [
        ("system", OPENING.replace("Sunday", "Monday")),
        *second[1:],
        ("assistant", "x"),
        ("user", "Why?"),
    ]
    line = await client.ask(*changed)
    assert line["misses"]["diverged"] > line["misses"].get("cold", 0)
    assert (line["divergence"]["message"], line["divergence"]["role"]) == (0, "system")
    assert line["divergence"]["kind"] == "date"

    await client.settled()
    for other in ({"cache_salt": "tenant"}, {"model": "adapter"}):
        line = await client.ask(*second, **other)
        assert line["misses"]["other_namespace"] > 100
        assert set(line["misses"]) <= {"other_namespace", "cold", "tail"}

    await client.settled()
    async with system.session.put(
        f"{client.router}/admin/policy", json={"policy": "round-robin"}
    ) as response:
        assert response.status == 200
    lines = [await client.ask(*second) for _ in range(2)]
    diverted = next(line for line in lines if line["replica"] != holder)
    assert set(diverted["misses"]) == {"diverted", "tail"}
    async with system.session.delete(f"{client.router}/admin/policy") as response:
        assert response.status == 200

    for number in range(40):  # fill both caches with something else
        await client.ask(("user", f"{number} " + "could they make long water people number " * 60))
    await client.settled()
    line = await client.ask(*second)
    assert line["misses"]["evicted"] > 100
    assert set(line["misses"]) <= {"evicted", "cold", "tail"}

    await client.settled()
    names = {replica["replica"]: url for url, replica in (await system.replicas(client.router)).items()}
    victim = next(process for url, process in engines if url == names[line["replica"]])
    before: dict[str, int] = {}

    async def all_count_the_same() -> bool:
        before.update(await _counted(system, client.router))
        return before["computed by engines"] == before["explained"] == client.computed

    await eventually(all_count_the_same, 5, "engines' counters have been read")
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    await system.start_engine(int(names[line["replica"]].rsplit(":", 1)[1]), *options)
    await client.settled()
    again = await client.ask(*second)
    assert again["misses"]["replica_lost"] > 100

    bare, _ = await system.start_engine(0, "--no-kv-events", "--served-model-name", "bare")
    system.start_agent(bare)

    async def served() -> bool:
        answer = await system.get(f"{client.router}/v1/models")
        return any(model["id"] == "bare" for model in answer["data"])

    await eventually(served, 20, "the engine without events serves")
    line = await client.ask(*second, model="bare")
    assert set(line["misses"]) == {"unknown"}
    assert (await _counted(system, client.router))["explained"] == client.computed


async def _counted(system: System, router: str) -> dict[str, int]:
    """Tokens computed, as the router explains them and as engines count them."""
    async with system.session.get(f"{router}/metrics") as response:
        lines = (await response.text()).splitlines()
    explained = sum(
        float(line.split()[-1]) for line in lines if line.startswith("warmroute_recomputed_tokens_total")
    )
    replicas = (await system.replicas(router)).values()
    by_engines = sum(r["engine"]["prefix_queries"] - r["engine"]["prefix_hits"] for r in replicas)
    return {"explained": int(explained), "computed by engines": by_engines}
