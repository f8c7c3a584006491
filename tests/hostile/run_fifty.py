"""One client in fifty sends what cannot be rendered: the hit rate of the other 49 is what it was without."""

from itertools import count
from typing import Any

import aiohttp

from tests.hostile.run_shapes import fronted_engines
from tests.hostile.steady import ordinary_session, user
from tests.hostile.system import CHAT, Hostile, hostile_system
from tests.hostile.table import Table, progress
from tests.router.test_shapes import UNUSUAL

NUM_CLIENTS = 50
NUM_TURNS = 4
WORDS = "words of one client that are cached "
DECLARED: dict[str, Any] = {"truncate_prompt_tokens": 8000}
"""The router says beforehand that it does not know the tokens; the engine has the same ones without it."""


class Client:
    """One conversation, and what its answers have said."""

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self._fields = fields
        self._messages = [{"role": "system", "content": f"You are a helpful assistant. {name}"}]
        self.tokens = self.expected = self.delivered = 0

    async def ask(self, session: aiohttp.ClientSession, url: str, turn: int) -> None:
        """One more turn."""
        self._messages.append(user(f"{turn} {WORDS * 12}"))
        body = {"model": "tiny", "max_tokens": 4, "messages": self._messages, **self._fields}
        async with session.post(url + CHAT, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
        self._messages.append(answer["choices"][0]["message"])
        if turn:  # a first turn finds nothing
            usage = answer["usage"]
            self.tokens += usage["prompt_tokens"]
            self.expected += int(response.headers["x-warmroute-expected-cached-tokens"])
            self.delivered += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


async def fifty(clients: int = NUM_CLIENTS, slack: float = 1.0) -> Table:
    """All clients take turns, first the ordinary ones alone, then with the odd one."""
    table = Table(f"fifty: 1 of {clients} clients sends what cannot be rendered", slack)
    async with hostile_system(engines=fronted_engines) as hostile, ordinary_session() as session:
        usual, _ = await _talk(hostile, session, "first", clients - 1, odd=False)
        others, odd = await _talk(hostile, session, "second", clients - 1, odd=True)
        for at, what in enumerate(("expected", "delivered")):
            table.row(f"hit rate of the others, {what}, without it", usual[at], 60, "%", at_least=True)
            table.row("changed with it by", abs(usual[at] - others[at]), 0.5, "points")
        table.row("hit rate of its own, delivered", odd[1], usual[1] - 5, "%", at_least=True)
        for problem in (await hostile.health())["degraded"]:
            table.note(str(problem)[:160])
    return table


async def _talk(
    hostile: Hostile, session: aiohttp.ClientSession, name: str, ordinary: int, odd: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Hit rates in per cent, expected and delivered, of the ordinary clients and of the odd one."""
    everybody = [Client(f"{name} {number}", {}) for number in range(ordinary)]
    odd_one, shapes = Client(f"{name} odd", DECLARED), count()
    for turn in range(NUM_TURNS):
        for client in everybody:
            await client.ask(session, hostile.url, turn)
        if odd:
            await odd_one.ask(session, hostile.url, turn)
            for fields in list(UNUSUAL.values())[turn::NUM_TURNS]:
                await _count_otherwise(hostile, session, fields, next(shapes))
        await hostile.seconds_until(hostile.is_exact)
    found = _rates(everybody), _rates([odd_one])
    progress(f"{name}: expected and delivered {found}")
    return found


async def _count_otherwise(
    hostile: Hostile, session: aiohttp.ClientSession, fields: dict[str, Any], number: int
) -> None:
    """Three requests of a shape, each of another conversation, that the engine counts otherwise."""
    for conversation in range(3):
        first = user(f"{number} {conversation}")
        body = {"model": "tiny", **fields, "messages": [first, *fields.get("messages", [])], "user": "odd"}
        async with session.post(hostile.url + CHAT, json=body) as response:
            await response.read()


def _rates(clients: list[Client]) -> tuple[float, float]:
    tokens = sum(client.tokens for client in clients) or 1
    expected, delivered = (
        sum(client.expected for client in clients),
        sum(client.delivered for client in clients),
    )
    return round(100 * expected / tokens, 2), round(100 * delivered / tokens, 2)
