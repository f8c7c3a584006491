"""HTTP to engines: limits on every wait, and foreign errors translated in this one place.

Requests for tokens go over connections of our own (`router.upstream.engine_pool`), small questions over
aiohttp.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
import msgspec

from router.errors import AttemptFailedError, Repeat, ReplyBrokenError, ReplyTooLargeError
from router.http.sse import UNREADABLE, error_status
from router.http.time_limits import Watchdog
from router.settings import RouterSettings
from router.upstream.engine_pool import KEEP_ALIVE_SECONDS, EnginePool
from router.upstream.reply import UpstreamReply

__all__ = ["HEALTH_SECONDS", "Upstream", "UpstreamReply"]

MAX_TOKENS_BYTES = 4 * 1024 * 1024
FAILED_STATUSES = {
    429: Repeat.FREELY,
    500: Repeat.ONCE,
    502: Repeat.ONCE,
    503: Repeat.FREELY,
    504: Repeat.NEVER,  # what stands before the engine has waited for too long
}
"""Statuses that do not reach the client while another replica may do better."""
SMALL_REQUEST_SECONDS = 10.0
HEALTH_SECONDS = 2.0
"""How long an engine may take to say that it lives."""
HEARD_SECONDS = 3.0
"""An engine that has sent a byte of any answer within this time lives, whatever its health check says."""
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

    async def send(
        self, url: str, path: str, body: bytes, headers: Mapping[str, str], streamed: bool
    ) -> UpstreamReply:
        """Send a generation request; return once it is certain that its answer may begin.

        Of a stream the first event decides; an error there that blames the request is an answer. Any other
        answer is read whole, so that it can still be repeated. Raises `AttemptFailedError` when the engine
        cannot be reached, fails, or stays silent for too long.
        """
        self.open_requests += 1
        reply = UpstreamReply(self._settings.idle_seconds, self._closed)
        try:
            await self._ask(reply, url, path, body, headers)
            await self._require_sound(reply, streamed)
        except ReplyBrokenError as error:
            reply.close()
            raise await self._failure(url, error) from error
        except BaseException:
            reply.close()
            raise
        return reply

    async def _require_sound(self, reply: UpstreamReply, streamed: bool) -> None:
        """Raises for an answer of which nothing should reach the client."""
        status, text = reply.status, reply.first[:ERROR_BYTES]
        if status in FAILED_STATUSES or not text:
            raise AttemptFailedError(
                f"engine answered {status} {text.decode(errors='replace')}",
                replica_down=status in (502, 503) or not text,
                timed_out=status == 504,
                answered=True,
                repeat=FAILED_STATUSES.get(status, Repeat.ONCE),
            )
        if not streamed or status != 200:
            await reply.read_all()
            return
        error = error_status(await reply.read_event())
        if (error or 0) >= 500:
            raise AttemptFailedError(
                "the engine began its stream with an error",
                replica_down=True,
                answered=True,
                repeat=Repeat.ONCE,
            )
        reply.has_token = error is None

    async def _failure(self, url: str, error: ReplyBrokenError) -> AttemptFailedError:
        """What it says about request and engine that an answer did not come or broke off."""
        if isinstance(error, ReplyTooLargeError):
            return AttemptFailedError(f"the answer is {error}", replica_down=False, repeat=Repeat.NEVER)
        if not error.timed_out:
            return AttemptFailedError(str(error), replica_down=True, repeat=Repeat.ONCE)
        if await self.is_healthy(url):  # it works, and would have worked longer
            return AttemptFailedError(str(error), replica_down=False, timed_out=True, repeat=Repeat.NEVER)
        return AttemptFailedError(str(error), replica_down=True, timed_out=True)

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
        if connection is not None and await reply.ask(connection, request, seconds):
            return
        # An engine may close an idle connection just as it is used. That says nothing about the engine, and
        # nothing was answered: the request is sent once more, on a new connection.
        try:
            new = await self._pool.connect(engine)
        except AttemptFailedError as error:
            if connection is not None:  # it had the request, and is gone
                error.repeat = Repeat.ONCE
            raise
        await reply.ask(new, request, seconds)

    def _closed(self) -> None:
        self.open_requests -= 1

    async def is_healthy(self, url: str) -> bool:
        """Whether the engine lives: it is sending answers, or says so in time.

        A busy engine may be too late with its health check. One without ``/health`` lives, too.
        """
        return self._is_heard(url) or await self._says_healthy(url) or self._is_heard(url)

    def _is_heard(self, url: str) -> bool:
        return asyncio.get_running_loop().time() - self._pool.heard_at(url) < HEARD_SECONDS

    async def _says_healthy(self, url: str) -> bool:
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
