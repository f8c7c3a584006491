"""Serves simulated engines: many in one process, each on its own port, all on one event loop.

``python -m workers.sim.engine --model DIR --engines 8`` prints one JSON line per engine when it is ready.
They look like vLLM 0.32 to routers and agents: same HTTP, same cache events, same paging; only the time that
an accelerator would compute is slept. `serve_engines` does the same inside a program or a test.
"""

import asyncio
import contextlib
import gc
import json
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Generator

import uvicorn
import uvloop
import zmq

from cluster.errors import ClusterError, StartUpError
from cluster.prompts.tokenizer import PromptTokenizer, forgo_torch
from workers.sim.api import build_app
from workers.sim.core import AnswerBook, EngineCore, Host
from workers.sim.settings import SimSettings, read_settings

LISTEN_BACKLOG = 2048
STOP_TIMEOUT_S = 1
DATE_INTERVAL_S = 1


class EngineServer(uvicorn.Server):
    """The HTTP server of one engine. Signals are the process's business, not each server's."""

    def __init__(self, core: EngineCore, listener: socket.socket) -> None:
        config = uvicorn.Config(
            build_app(core),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
        super().__init__(config)
        self.core = core
        self._listener = listener
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The URL at which the engine is reached."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the process's signal handlers alone."""
        yield

    async def start(self) -> None:
        """Start the engine and accept requests."""
        self.core.start()
        self._task = asyncio.create_task(self.serve(sockets=[self._listener]))
        await self._ready.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; called by uvicorn."""
        await super().startup(sockets)
        self._ready.set()

    async def main_loop(self) -> None:
        """Keep the Date header current. Uvicorn's own loop wakes ten times a second, for each engine."""
        while not self._stop.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), DATE_INTERVAL_S)

    async def stop(self) -> None:
        """Break off what is running, as an engine that is killed does. Harmless when repeated."""
        if self._task is None:
            return
        task, self._task = self._task, None
        self._stop.set()
        await self.core.stop()
        await task


@contextlib.asynccontextmanager
async def serve_engines(settings: SimSettings) -> AsyncIterator[list[EngineServer]]:
    """Run the engines of one process. Raises `StartUpError` and `TokenizerUnavailableError`."""
    tokenizer = await asyncio.to_thread(PromptTokenizer, settings.model)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    host = Host(settings, tokenizer, AnswerBook(tokenizer), secrets.randbits(64), context)
    servers: list[EngineServer] = []
    try:
        for index in range(settings.engines):
            servers.append(_create_server(host, index))
            await servers[-1].start()
        yield servers
    finally:
        await asyncio.gather(*(server.stop() for server in servers))
        context.destroy(linger=0)


def _create_server(host: Host, index: int) -> EngineServer:
    settings = host.settings
    address = (settings.host, settings.port + index if settings.port else 0)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server(address, family=family, backlog=LISTEN_BACKLOG)
    except OSError as error:
        raise StartUpError(f"--host, --port: cannot listen on {address[0]}:{address[1]}: {error}") from error
    try:
        return EngineServer(EngineCore(host, index), listener)
    except zmq.ZMQError as error:
        listener.close()
        raise StartUpError(f"--kv-endpoint, --kv-replay-endpoint: {error}") from error


async def run(settings: SimSettings) -> None:
    """Serve until the process is asked to stop."""
    stop = asyncio.Event()
    async with serve_engines(settings) as servers:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        for index, server in enumerate(servers):
            sys.stdout.write(json.dumps({"engine": index, "url": server.url}) + "\n")
        sys.stdout.flush()
        gc.freeze()  # a full collection over all that transformers imports would stop every engine for 0.1 s
        await stop.wait()


def main() -> int:
    """Run the command line."""
    forgo_torch()
    try:
        uvloop.run(run(read_settings(sys.argv[1:])))
    except ClusterError as error:
        sys.stderr.write(f"sim_engine: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
