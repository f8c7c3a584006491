"""Runs the router's application on a port of its own, under uvicorn, also as a Ray Serve deployment.

Serve's Python proxy would stand in front of every chunk of every stream (measured: 1.3-6.2k chunks/s
through a handle against 16-51k over the replica's own port), so the actor serves its ASGI application
itself.
"""

import asyncio
import math
import socket
from functools import partial
from types import FrameType

import structlog
import uvicorn

from cluster.errors import ClusterError, StartUpError
from cluster.log import configure_logging
from cluster.process.collector import give_back_large_blocks
from cluster.prompts.tokenizer import forgo_torch
from router.api.generate import RouterApplication
from router.app import create_app
from router.errors import RouterStopsError
from router.http.admission import raise_file_limit
from router.http.client_connection import ClientConnection
from router.http.request_reader import Bounds
from router.http.time_limits import Watchdog
from router.settings import RouterSettings

LAST_SECONDS = 2.0
"""How long the errors with which a stopping router ends answers may take to reach clients."""
TICK_SECONDS = 0.1
POLL_SECONDS = 0.01

log = structlog.get_logger()


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


def _config(app: RouterApplication, bounds: Bounds) -> uvicorn.Config:
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
        timeout_graceful_shutdown=math.ceil(app.settings.grace_seconds + LAST_SECONDS),
        backlog=4096,
    )


class RouterServer(uvicorn.Server):
    """Serves a router's application, and stops in steps: `/readyz` says no while all else goes on; no more
    connections are taken, and what is open may finish; what is still open ends with an error.

    A second signal ends it at once.
    """

    def __init__(self, app: RouterApplication) -> None:
        settings = app.settings
        self._app = app
        self._bounds = Bounds(
            app.admission,
            Watchdog(min(1.0, settings.stalled_client_seconds / 10, settings.body_seconds / 10)),
            settings.body_seconds,
            settings.stalled_client_seconds,
        )
        super().__init__(_config(app, self._bounds))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called with each signal."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def main_loop(self) -> None:
        """Serve until asked to stop, and then until load balancers have had time to see it."""
        await super().main_loop()
        settings = self._app.settings
        log.info(
            "router_stop_begun",
            unready_seconds=settings.unready_seconds,
            grace_seconds=settings.grace_seconds,
        )
        self._app.state.readiness.stopping = True
        self._bounds.keep_alive = False
        clock = asyncio.get_running_loop().time
        until = clock() + settings.unready_seconds
        while not self.force_exit and (left := until - clock()) > 0:
            await asyncio.sleep(min(TICK_SECONDS, left))
            await self.on_tick(0)  # keeps the date of answers right

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and wait for answers within bounds."""
        seconds = self._app.settings.grace_seconds
        ending = asyncio.get_running_loop().call_later(seconds, self._end_answers)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    def _end_answers(self) -> None:
        for connection in list(self.server_state.connections):
            assert isinstance(connection, ClientConnection)
            connection.end_answers(RouterStopsError())


def create_server(settings: RouterSettings) -> RouterServer:
    """A server for the router; run it with ``serve(sockets=[bind(…)])``. Sets this process's limits."""
    raise_file_limit()
    give_back_large_blocks()
    return RouterServer(create_app(settings))


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
        """Called by Serve, which waits for it: the server stops in steps."""
        self._server.should_exit = True
        await asyncio.gather(self._serving, return_exceptions=True)
