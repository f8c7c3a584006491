"""Requests of odd shapes that the engine counts otherwise: other clients' prompts are found as before."""

import sys
from collections import Counter
from collections.abc import Collection
from itertools import count
from typing import Any

import aiohttp

from tests.hostile.steady import ordinary_session, user
from tests.hostile.system import CHAT, Hostile, hostile_system, report_user
from tests.hostile.table import Table, progress
from tests.integration.system import System, free_port
from tests.router.test_shapes import UNUSUAL, USUAL

NUM_ENGINES = 2
NUM_CLIENTS = 6
NUM_ODD = 3
ORDINARY = "one question"
WORDS = "words of an ordinary client that are cached "

COMPLETIONS: dict[str, dict[str, Any]] = {
    "completion": {},
    "completion of token ids": {"prompt": [5, 6, 7]},
    "completion with messages": {"messages": [{"role": "developer", "content": "x"}]},
    "completion without special tokens": {"add_special_tokens": False},
    "completion cut at the front": {"truncate_prompt_tokens": 2},
    "completion with a suffix": {"suffix": "x"},
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (CHAT, fields) for name, fields in (USUAL | UNUSUAL).items()},
    **{name: ("/v1/completions", {"prompt": "Hello!", **fields}) for name, fields in COMPLETIONS.items()},
}


async def shapes(names: Collection[str] = tuple(SHAPES), slack: float = 1.0) -> Table:
    """Three requests of each from one client, then the turn of others, who ask as usual or in that shape."""
    table = Table(f"shapes: {NUM_ODD} requests of each of {len(names)} shapes", slack)
    rounds = count()
    statuses: Counter[int] = Counter()
    worse: dict[str, list[str]] = {"usual": [], "same": []}
    async with hostile_system(engines=fronted_engines) as hostile, ordinary_session() as session:
        usual = await hit_rates(hostile, session, ORDINARY, next(rounds))
        lowest = usual
        for name in names:
            same = await hit_rates(hostile, session, name, next(rounds))
            for number in range(NUM_ODD):
                statuses[await send_odd(hostile, session, name, number)] += 1
            same_after = await hit_rates(hostile, session, name, next(rounds))
            after = await hit_rates(hostile, session, ORDINARY, next(rounds))
            lowest = min(lowest[0], after[0]), min(lowest[1], after[1])
            progress(
                f"{name}: expected, delivered {after}; in the same shape {same} before, then {same_after}"
            )
            worse["usual"] += [name] * (after != usual)
            worse["same"] += [name] * (same_after != same)
        table.note(f"answers to the odd requests by status: {dict(sorted(statuses.items()))}")
        for at, what in enumerate(("expected", "delivered")):
            table.row(f"hit rate of others, {what}, before", 100 * usual[at], 75, "%", at_least=True)
            table.row("lost at most", 100 * (usual[at] - lowest[at]), 0, "points")
        for which, shapes_of_it in worse.items():
            table.row(f"shapes that changed it for others who ask in the {which} shape", len(shapes_of_it), 0)
            table.note(", ".join(shapes_of_it) or "after none")
        report_user(table, "all of it", hostile.seen())
    return table


async def fronted_engines(system: System) -> None:
    """Engines that routers reach through fronts; the agent reaches them itself."""
    engines, fronts = [], []
    for _ in range(NUM_ENGINES):
        engine, _ = await system.start_engine()
        port = free_port()
        system.start("front", [sys.executable, "-m", "tests.hostile.front", str(port), engine])
        engines.append(engine)
        fronts.append(f"http://127.0.0.1:{port}")
    system.start_agent(*engines, advertised=fronts)


def body_of(name: str, content: str) -> tuple[str, dict[str, Any]]:
    """Path and fields of a request of this shape that begins with the content."""
    path, fields = SHAPES[name]
    body = {"model": "tiny", "max_tokens": 1, **fields}
    if path == CHAT:
        body["messages"] = [user(content), *fields.get("messages", []), user("Hello!")]
    else:
        body["prompt"] = content
    return path, body


async def send_odd(hostile: Hostile, session: aiohttp.ClientSession, name: str, number: int) -> int:
    """The status of one odd request; each is another conversation."""
    path, body = body_of(name, f"{name} {number}")
    async with session.post(hostile.url + path, json={**body, "user": "odd"}) as response:
        await response.read()
        return response.status


async def hit_rates(
    hostile: Hostile, session: aiohttp.ClientSession, name: str, round_number: int
) -> tuple[float, float]:
    """Of clients whose prompts were sent a moment ago: the shares expected and delivered from a cache."""
    prompts = [f"{round_number:03d} {client} {WORDS * 20}" for client in range(NUM_CLIENTS)]
    for prompt in prompts:
        await ask(hostile, session, name, prompt)
    await hostile.seconds_until(hostile.is_exact)
    answers = [await ask(hostile, session, name, prompt) for prompt in prompts]
    tokens, expected, delivered = map(sum, zip(*answers, strict=True))
    return round(expected / tokens, 3), round(delivered / tokens, 3)


async def ask(
    hostile: Hostile, session: aiohttp.ClientSession, name: str, content: str
) -> tuple[int, int, int]:
    """Tokens of the prompt; of these, expected in a cache, and found in it."""
    path, body = body_of(name, content)
    async with session.post(hostile.url + path, json=body) as response:
        answer = await response.json()
        if response.status == 400:  # the simulated engine does not know this one
            return 1, 0, 0
        assert response.status == 200, answer
    usage = answer["usage"]
    details = usage.get("prompt_tokens_details") or {}
    expected = int(response.headers["x-warmroute-expected-cached-tokens"])
    return usage["prompt_tokens"], expected, details.get("cached_tokens") or 0
