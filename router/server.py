"""Runs the router's application on a port of its own, under uvicorn, also as a Ray Serve deployment.

Serve's Python proxy would stand in front of every chunk of every stream (measured: 1.3-6.2k chunks/s
through a handle against 16-51k over the replica's own port), so the actor serves its ASGI application
itself.
"""

import asyncio
import socket
from functools import partial

import uvicorn

from cluster.errors import ClusterError, StartUpError
from cluster.log import configure_logging
from cluster.process.collector import give_back_large_blocks
from cluster.prompts.tokenizer import forgo_torch
from router.api.generate import RouterApplication
from router.app import create_app
from router.http.admission import raise_file_limit
from router.http.client_connection import ClientConnection
from router.http.request_reader import Bounds
from router.http.time_limits import Watchdog
from router.settings import RouterSettings

SHUTDOWN_SECONDS = 10
POLL_SECONDS = 0.01


def bind(host: str, port: int) -> socket.socket:
    """Take the port before anything else starts. Raises `StartUpError` when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartUpError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port"
        ) from error
    return listener


def server_config(app: RouterApplication) -> uvicorn.Config:
    """How a router's application is served."""
    settings = app.settings
    bounds = Bounds(
        app.admission,
        Watchdog(min(1.0, settings.stalled_client_seconds / 10, settings.body_seconds / 10)),
        settings.body_seconds,
        settings.stalled_client_seconds,
    )
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=partial(ClientConnection, bounds),  # type: ignore[arg-type]  # it only calls the class
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks for the client's address
        timeout_keep_alive=75,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        backlog=4096,
    )


def create_server(settings: RouterSettings) -> uvicorn.Server:
    """A server for the router; run it with ``serve(sockets=[bind(…)])``. Sets this process's limits."""
    raise_file_limit()
    give_back_large_blocks()
    return uvicorn.Server(server_config(create_app(settings)))


async def started(server: uvicorn.Server, listener: socket.socket) -> asyncio.Task[None]:
    """What serves, once it takes requests or has ended."""
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not (server.started or serving.done()):
        await asyncio.wait([serving], timeout=POLL_SECONDS)
    return serving


class RouterStoppedError(ClusterError):
    """The router's server has ended; Serve should replace this actor."""


class Router:
    """One router per actor. The class is wrapped with ``serve.deployment`` in `cluster.serve.serve_app`."""

    async def __init__(self, settings: RouterSettings) -> None:  # type: ignore[misc]  # Serve awaits it
        configure_logging(settings.log_level, json=True)
        forgo_torch()
        self._server = create_server(settings)
        self._serving = await started(self._server, bind(settings.host, settings.port))
        if not self._server.started:
            await self._serving
            raise RouterStoppedError("the router's server ended while it was starting")

    def check_health(self) -> None:
        """Called by Serve. Raises `RouterStoppedError` when the server is gone."""
        if self._serving.done():
            raise RouterStoppedError("the router's server has ended")

    async def __del__(self) -> None:
        """Called by Serve: open streams get some time to finish."""
        self._server.should_exit = True
        await asyncio.gather(self._serving, return_exceptions=True)
