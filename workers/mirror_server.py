"""Answers what the agents of this process hold, for ``warmroute check``: on the loopback interface only.

``/healthz`` names the replicas; ``/replicas/{id}/mirror`` gives ``{"replica", "epoch", "sequence",
"keys"}`` with keys as 16 hexadecimal digits; ``/replicas/{id}/verify`` gives ``{"replica", "missing",
"surplus"}``: what Redis lacks, and has too much.
"""

import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from workers.agent import Agent
from workers.errors import UnsettledError

HOST = "127.0.0.1"
STOP_SECONDS = 1.0


class MirrorServer:
    """The agents that a server answers for. `url_of` is known before the agent exists."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._agents: dict[str, Agent] = {}

    def url_of(self, replica: str) -> str:
        """Where a replica's agent answers; `/mirror` and `/verify` are below."""
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
        body = {"replica": agent.replica, "epoch": epoch, "sequence": sequence, "keys": _hex(keys)}
        return web.json_response(body)

    async def verify(self, request: web.Request) -> web.Response:
        """Where Redis differs from an agent's mirror."""
        agent = self._agent(request)
        try:
            difference = await agent.verify()
        except UnsettledError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from error
        body = {
            "replica": agent.replica,
            "missing": _hex(difference.missing),
            "surplus": _hex(difference.surplus),
        }
        return web.json_response(body)

    def _agent(self, request: web.Request) -> Agent:
        agent = self._agents.get(request.match_info["replica"])
        if agent is None:
            raise web.HTTPNotFound(text="no agent for that replica here")
        return agent


def _hex(keys: Iterable[int]) -> list[str]:
    return [f"{key:016x}" for key in sorted(keys)]


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
