"""The router as a Ray Serve deployment, with a port of its own.

Serve's Python proxy would stand in front of every chunk of every stream (measured: 1.3-6.2k chunks/s
through a handle against 16-51k over the replica's own port), so the actor serves its ASGI application
itself.
"""

import asyncio

from cluster.errors import ClusterError
from cluster.log import configure_logging
from cluster.prompts.tokenizer import forgo_torch
from router.server import bind, create_server
from router.settings import RouterSettings


class RouterStoppedError(ClusterError):
    """The router's server has ended; Serve should replace this actor."""


class Router:
    """One router per actor. The class is wrapped with ``serve.deployment`` in `cluster.serve.serve_app`."""

    async def __init__(self, settings: RouterSettings) -> None:  # type: ignore[misc]  # Serve awaits it
        configure_logging(settings.log_level, json=True)
        forgo_torch()
        self._server = create_server(settings)
        self._serving = asyncio.create_task(self._server.serve(sockets=[bind(settings.host, settings.port)]))
        while not self._server.started:
            if self._serving.done():
                await self._serving
                raise RouterStoppedError("the router's server ended while it was starting")
            await asyncio.sleep(0.01)

    def check_health(self) -> None:
        """Called by Serve. Raises `RouterStoppedError` when the server is gone."""
        if self._serving.done():
            raise RouterStoppedError("the router's server has ended")

    async def __del__(self) -> None:
        """Called by Serve: open streams get some time to finish."""
        self._server.should_exit = True
        await asyncio.gather(self._serving, return_exceptions=True)
