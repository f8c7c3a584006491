"""Finds out whether a name that this router does not know is served all the same: an adapter has just been
loaded.

Agents read the names that engines serve twice a second, so a lease with the name follows soon. Engines are
asked here only whether it is worth waiting for.
"""

import asyncio
import random

import msgspec

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Model
from cluster.protocol.wire import ReplicaState
from router.errors import AttemptFailedError, NoReplicaReadyError, quoted
from router.health.readiness import POLL_SECONDS, model_of
from router.http.sse import UNREADABLE
from router.upstream.client import HEALTH_SECONDS, Upstream

PAUSE_SECONDS = 1.0
"""Between two searches, whoever asks for what."""
MAX_ASKED = 256
"""Engines asked in one search, at random where there are more."""
LEASE_SECONDS = 3.0
"""How long a name that an engine serves may take to reach this router."""


class _Card(msgspec.Struct):
    id: str


class _Cards(msgspec.Struct):
    data: list[_Card]


class NewNames:
    """Looks unknown names up. `run` asks the engines, in one search for all who wait."""

    def __init__(self, fleet: Fleet, upstream: Upstream) -> None:
        self._fleet = fleet
        self._upstream = upstream
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[frozenset[str]]] = []

    async def model_of(self, name: str) -> Model:
        """The model that a client names, after a search where no replica is known for it. Raises like
        `router.health.readiness.model_of`.
        """
        if name and name not in self._fleet.models and self._fleet.replicas and await self._is_served(name):
            for _ in range(round(LEASE_SECONDS / POLL_SECONDS)):
                if name in self._fleet.models:
                    break
                await asyncio.sleep(POLL_SECONDS)
            else:
                raise NoReplicaReadyError(f"{quoted(name)} has just been loaded; try again shortly.")
        return model_of(self._fleet, name)

    async def run(self) -> None:
        """Search when somebody wants it, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            waiting, self._waiting = self._waiting, []
            served = await self._served()
            for future in waiting:
                if not future.done():
                    future.set_result(served)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _is_served(self, name: str) -> bool:
        """Whether an engine serves it, found in a search that begins after now."""
        future: asyncio.Future[frozenset[str]] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wanted.set()
        try:
            async with asyncio.timeout(PAUSE_SECONDS + 3 * HEALTH_SECONDS):
                return name in await future
        except TimeoutError:
            return False

    async def _served(self) -> frozenset[str]:
        replicas = self._fleet.replicas.values()
        urls = sorted({one.lease.url for one in replicas if one.lease.state is ReplicaState.READY})
        asked = random.sample(urls, min(len(urls), MAX_ASKED))
        return frozenset().union(*await asyncio.gather(*map(self._names_at, asked)))

    async def _names_at(self, url: str) -> frozenset[str]:
        try:
            reply = await self._upstream.question(url, "GET", "/v1/models", HEALTH_SECONDS)
            return frozenset(card.id for card in msgspec.json.decode(reply.first, type=_Cards).data)
        except (AttemptFailedError, *UNREADABLE):
            return frozenset()
