"""What an agent takes for its engine: everything is passed on, only KV events are said to be elsewhere."""

import aiohttp
from aiohttp import web

from tests.chaos.proxy import HOST, reserve_port


class EngineFront:
    """Forwards GET requests to an engine and rewrites its ``/kv_event_sources``."""

    def __init__(self, engine_port: int, events_port: int, replay_port: int) -> None:
        self.port = reserve_port()
        self._engine = f"http://{HOST}:{engine_port}"
        self._endpoints = {
            "endpoint": f"tcp://{HOST}:{events_port}",
            "replay_endpoint": f"tcp://{HOST}:{replay_port}",
        }
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def listen(self) -> None:
        """Answer on `port`."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True), timeout=aiohttp.ClientTimeout(total=30)
        )
        application = web.Application()
        application.router.add_get("/{path:.*}", self._forward)
        self._runner = web.AppRunner(
            application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self.port).start()

    async def close(self) -> None:
        """Stop answering."""
        if self._runner is not None and self._session is not None:
            await self._runner.cleanup()
            await self._session.close()

    async def _forward(self, request: web.Request) -> web.Response:
        assert self._session is not None
        try:
            async with self._session.get(self._engine + request.path_qs) as reply:
                if request.path == "/kv_event_sources" and reply.status == 200:
                    sources = await reply.json()
                    return web.json_response(
                        {rank: {**source, **self._endpoints} for rank, source in sources.items()}
                    )
                return web.Response(
                    status=reply.status, body=await reply.read(), content_type=reply.content_type
                )
        except (aiohttp.ClientError, OSError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)
