"""HTTP to engines: limits on every wait, and foreign errors translated in this one place.

Requests for tokens go over connections of our own (`router.engine_pool`), small questions over aiohttp.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
import msgspec

from router.engine_pool import KEEP_ALIVE_SECONDS, EnginePool
from router.errors import AttemptFailedError
from router.settings import RouterSettings
from router.sse import UNREADABLE
from router.upstream_reply import UpstreamReply
from router.watchdog import Watchdog

__all__ = ["HEALTH_SECONDS", "Upstream", "UpstreamReply"]

MAX_TOKENS_BYTES = 4 * 1024 * 1024
RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})
SMALL_REQUEST_SECONDS = 10.0
HEALTH_SECONDS = 2.0
"""How long an engine may take to say that it lives."""
ERROR_BYTES = 300
"""How much of an engine's error is passed on to the client."""

_ENDS_A_LINE = re.compile(r"[\r\n\0]")


class _Tokens(msgspec.Struct):
    tokens: list[int]


class Upstream:
    """The router's client of all engines. Create it inside a running event loop."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self.open_requests = 0
        """Generation requests sent to engines whose answers have not been closed."""
        self._headers = (
            {"Authorization": f"Bearer {settings.engine_api_key}"} if settings.engine_api_key else {}
        )
        self._authorization = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items())
        self._watchdog = Watchdog(min(1.0, settings.first_byte_seconds / 10, settings.idle_seconds / 10))
        self._pool = EnginePool(settings.connect_seconds, self._watchdog)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_seconds),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),  # engines are no place to meet another client's cookies
        )

    async def close(self) -> None:
        """Close every connection."""
        self._pool.close()
        self._watchdog.close()
        await self._session.close()

    async def send(self, url: str, path: str, body: bytes, headers: Mapping[str, str]) -> UpstreamReply:
        """Send a generation request; return once the first bytes of the answer are there.

        Raises `AttemptFailedError` when the engine cannot be reached, fails, or stays silent for too long.
        """
        self.open_requests += 1
        reply = UpstreamReply(self._settings.idle_seconds, self._closed)
        try:
            await self._ask(reply, url, path, body, headers)
            if reply.status in RETRIED_STATUSES or not reply.first:
                raise AttemptFailedError(
                    f"engine answered {reply.status} {reply.first[:ERROR_BYTES].decode(errors='replace')}",
                    replica_down=reply.status in (502, 503) or not reply.first,
                )
        except BaseException:
            reply.close()
            raise
        return reply

    async def _ask(
        self, reply: UpstreamReply, url: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> None:
        engine = self._pool.engine(url)
        head = (
            f"POST {engine.path_prefix}{path} HTTP/1.1\r\nHost: {engine.authority}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{self._authorization}"
        )
        for name, value in headers.items():
            if _ENDS_A_LINE.search(value):
                raise ValueError(f"header {name} would end its line")
            head += f"{name}: {value}\r\n"
        request = f"{head}\r\n".encode("latin-1") + body
        seconds = self._settings.first_byte_seconds
        connection = self._pool.idle_connection(engine)
        # An engine may close an idle connection just as it is used. That says nothing about the engine, and
        # nothing was answered: the request is sent once more, on a new connection.
        if connection is None or not await reply.ask(connection, request, seconds):
            await reply.ask(await self._pool.connect(engine), request, seconds)

    def _closed(self) -> None:
        self.open_requests -= 1

    async def is_healthy(self, url: str) -> bool:
        """Whether the engine answers in time that it lives; one without ``/health`` lives, too."""
        with suppress(AttemptFailedError), _translated(HEALTH_SECONDS):
            async with (
                asyncio.timeout(HEALTH_SECONDS),
                self._session.get(f"{url}/health", headers=self._headers) as response,
            ):
                return response.status < 500
        return False

    async def tokenise(self, url: str, body: Mapping[str, Any]) -> list[int] | None:
        """The engine's own tokens for a prompt; None when it does not offer a ``/tokenize`` like vLLM's.

        Raises `AttemptFailedError` when it cannot be reached.
        """
        with _translated(SMALL_REQUEST_SECONDS):
            async with (
                asyncio.timeout(SMALL_REQUEST_SECONDS),
                self._session.post(f"{url}/tokenize", json=body, headers={**self._headers}) as response,
            ):
                if response.status >= 500:
                    raise AttemptFailedError(f"engine answered {response.status}", replica_down=False)
                if response.status != 200:
                    return None
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > MAX_TOKENS_BYTES:
                        return None
                try:
                    return msgspec.json.decode(answer, type=_Tokens).tokens
                except UNREADABLE:
                    return None


@contextmanager
def _translated(limit_seconds: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise AttemptFailedError(
            f"no answer within {limit_seconds:g} s", replica_down=True, timed_out=True
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise AttemptFailedError(_describe(error), replica_down=True) from error


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__
