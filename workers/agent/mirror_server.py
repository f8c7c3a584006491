"""Answers what the agents of this process hold, for ``warmroute check``: on the loopback interface only.

``/healthz`` names the replicas; ``/replicas/{id}/mirror`` gives ``{"replica", "epoch", "sequence",
"keys"}`` with keys as 16 hexadecimal digits; ``/replicas/{id}/verify`` gives ``{"replica", "missing",
"surplus"}``: what Redis lacks, and has too much.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from cluster.index.block_table import BlockKeys, as_keys, listed
from workers.agent.agent import Agent
from workers.errors import UnsettledError

HOST = "127.0.0.1"
STOP_SECONDS = 1.0
WRITTEN_KEYS = 16_384
"""Keys that are written in one go: 1 ms."""


class MirrorServer:
    """The agents that a server answers for. `url_of` is known before the agent exists."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._agents: dict[str, Agent] = {}

    def url_of(self, replica: str) -> str:
        """The URL of a replica's agent; `/mirror` and `/verify` are below."""
        return f"{self._base_url}/replicas/{replica}"

    def add(self, agent: Agent) -> None:
        """Answer for this agent, too."""
        self._agents[agent.replica] = agent

    async def healthz(self, _request: web.Request) -> web.Response:
        """The replicas and their states."""
        return web.json_response({name: str(agent.state) for name, agent in self._agents.items()})

    async def mirror(self, request: web.Request) -> web.Response:
        """What an agent's mirror holds, with the sequence at which Redis holds the same."""
        agent = self._agent(request)
        snapshot = await agent.snapshot()
        if snapshot is None:
            raise web.HTTPServiceUnavailable(text="Redis does not keep up with the engine: try again")
        epoch, sequence, keys = snapshot
        fields = {"replica": agent.replica, "epoch": epoch, "sequence": sequence}
        return await _answer(fields, {"keys": keys})

    async def verify(self, request: web.Request) -> web.Response:
        """Where Redis differs from an agent's mirror."""
        agent = self._agent(request)
        try:
            difference = await agent.verify()
        except UnsettledError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from error
        differences = {"missing": difference.missing, "surplus": difference.surplus}
        return await _answer({"replica": agent.replica}, differences)

    def _agent(self, request: web.Request) -> Agent:
        agent = self._agents.get(request.match_info["replica"])
        if agent is None:
            raise web.HTTPNotFound(text="no agent for that replica here")
        return agent


async def _answer(fields: Mapping[str, Any], keys: Mapping[str, Collection[int]]) -> web.Response:
    """Fields and sorted keys as JSON. There can be millions: leases must be renewed meanwhile."""
    parts = [msgspec.json.encode(fields)[:-1]]
    for name, some in keys.items():
        ordered = await asyncio.to_thread(_sorted, some)
        parts.append(b',"%b":[' % name.encode())
        for start in range(0, len(ordered), WRITTEN_KEYS):
            parts.append((b"," if start else b"") + listed(ordered[start : start + WRITTEN_KEYS]))
            await asyncio.sleep(0)
        parts.append(b"]")
    return web.Response(body=b"".join(parts) + b"}", content_type="application/json")


def _sorted(keys: Collection[int]) -> BlockKeys:
    return np.sort(as_keys(keys))


@asynccontextmanager
async def serve_mirrors() -> AsyncIterator[MirrorServer]:
    """Serve on a free port until the context ends."""
    listener = socket.create_server((HOST, 0))
    server = MirrorServer(f"http://{HOST}:{listener.getsockname()[1]}")
    application = web.Application()
    application.router.add_get("/healthz", server.healthz)
    application.router.add_get("/replicas/{replica}/mirror", server.mirror)
    application.router.add_get("/replicas/{replica}/verify", server.verify)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield server
    finally:
        await runner.cleanup()
