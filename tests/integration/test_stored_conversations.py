"""Many conversations by ``previous_response_id`` while a router and an engine are killed."""

import asyncio
import random
from typing import Any

import aiohttp
import pytest

from tests.integration.system import System, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BLOCK_SIZE = 16
NUM_CONVERSATIONS = 100
NUM_TURNS = 8
STORED = {"WARMROUTE_STORED_RESPONSES": "redis", "WARMROUTE_STORED_KEYS": "a secret of the routers"}


class Clients:
    """Who talk to any router that answers, and what came of it."""

    def __init__(self, session: aiohttp.ClientSession, routers: list[str]) -> None:
        self.routers = routers
        self.answered = 0
        self.turns: list[tuple[int, int, str, str]] = []
        """Of each turn after a first one: cached and possible tokens, the replica before, and this one."""
        self._session = session
        self._random = random.Random(1)
        self._places = asyncio.Semaphore(16)

    async def converse(self, number: int) -> None:
        """One conversation."""
        body: dict[str, Any] = {"model": "tiny", "input": f"{number}: tell me about prefix caching. " * 30}
        possible, replica = 0, ""
        for turn in range(NUM_TURNS):
            async with self._places:
                answer, now = await self._ask(body)
            usage = answer["usage"]
            if turn:
                cached = usage["input_tokens_details"]["cached_tokens"]
                self.turns.append((cached, possible, replica, now))
            possible, replica = (usage["total_tokens"] - 1) // BLOCK_SIZE * BLOCK_SIZE, now
            body = {"model": "tiny", "input": f"Go on {turn}.", "previous_response_id": answer["id"]}
            self.answered += 1

    async def _ask(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        while True:
            url = f"{self._random.choice(self.routers)}/v1/responses"
            try:
                async with self._session.post(url, json=body) as response:
                    answer = await response.json()
                    assert response.status == 200, answer
                    return answer, response.headers["x-warmroute-replica"]
            except aiohttp.ClientConnectionError:  # its router was killed
                await asyncio.sleep(0.1)


async def test_no_turn_is_lost(system: System) -> None:
    """Three routers, one killed in the middle, and four replicas, one killed: every turn is answered, and
    finds 95% of what is possible or more, but for those of the killed replica.
    """
    options = ("--answer-tokens", "24", "--num-blocks", "20000", "--prefill-rate", "100000")
    engines = [await system.start_engine(0, *options) for _ in range(4)]
    for url, _ in engines:
        system.start_agent(url)
    routers = []
    for _ in range(3):
        url = await system.start_router(**STORED)
        routers.append((url, system.processes[-1]))
    clients = Clients(system.session, [url for url, _ in routers])

    async def answered(number: int) -> None:
        async def reached() -> bool:
            return clients.answered >= number

        await eventually(reached, 120, f"{number} turns")

    async def kill() -> None:
        await answered(250)
        clients.routers.remove(routers[0][0])
        routers[0][1].kill()
        await answered(450)
        engines[0][1].kill()

    killing = asyncio.create_task(kill())
    await asyncio.gather(*(clients.converse(number) for number in range(NUM_CONVERSATIONS)))
    await killing
    assert clients.answered == NUM_CONVERSATIONS * NUM_TURNS
    dead = engines[0][0].removeprefix("http://").replace(":", "-")
    stayed = [turn for turn in clients.turns if turn[2] != dead or turn[3] == dead]
    assert len(stayed) > len(clients.turns) / 2
    assert not [turn for turn in stayed if turn[0] < 0.95 * turn[1]]
