"""HTTP to engines: one pool, limits on every wait, and foreign errors translated in this one place."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
import msgspec

from router.errors import AttemptFailedError, ReplyBrokenError
from router.settings import RouterSettings
from router.sse import MAX_EVENT_BYTES, UNREADABLE, first_event

KEEP_ALIVE_SECONDS = 4.0
"""Below the 5 s after which vLLM's server closes idle connections, so that none is reused as it closes."""

READ_BUFFER_BYTES = 64 * 1024
MAX_REPLY_BYTES = 64 * 1024 * 1024
MAX_TOKENS_BYTES = 4 * 1024 * 1024
RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})
SMALL_REQUEST_SECONDS = 10.0
HEALTH_SECONDS = 2.0
"""How long an engine may take to say that it lives."""
ERROR_BYTES = 300
"""How much of an engine's error is passed on to the client."""


class _Tokens(msgspec.Struct):
    tokens: list[int]


class UpstreamReply:
    """An engine's answer, from its first bytes on. Close it, or read it to its end.

    ``first`` holds the bytes that have come already.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        first: bytes,
        idle_seconds: float,
        on_close: Callable[[], None],
    ) -> None:
        self._response = response
        self._on_close: Callable[[], None] | None = on_close
        self.first = first
        self._idle_seconds = idle_seconds
        self.status = response.status
        self.content_type = response.headers.get("Content-Type", "application/json")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `ReplyBrokenError` when it breaks off or the engine falls silent."""
        data = self.first
        while data:
            yield data
            data = await self._read()

    async def read_event(self) -> bytes:
        """Read on until `first` begins with a whole event, and return that. Raises `ReplyBrokenError`."""
        while (event := first_event(self.first)) is None and len(self.first) < MAX_EVENT_BYTES:
            data = await self._read()
            if not data:
                break
            self.first += data
        return event or self.first

    async def read_all(self) -> None:
        """Take the whole body into `first`. Raises `ReplyBrokenError`, also when it is over 64 MiB."""
        parts, size = [], 0
        async for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_REPLY_BYTES:
                raise ReplyBrokenError(f"larger than {MAX_REPLY_BYTES} bytes")
        self.first = b"".join(parts)

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await self._response.content.readany()
        except TimeoutError as error:
            raise ReplyBrokenError(f"silent for {self._idle_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ReplyBrokenError(_describe(error)) from error

    def close(self) -> None:
        """Drop the connection unless the body was read to its end: the engine then stops generating."""
        self._response.close()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None


class Upstream:
    """The router's client of all engines. Create it inside a running event loop."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self.open_requests = 0
        """Generation requests sent to engines whose answers have not been closed."""
        self._headers = (
            {"Authorization": f"Bearer {settings.engine_api_key}"} if settings.engine_api_key else {}
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # open requests are bounded by admission
                keepalive_timeout=KEEP_ALIVE_SECONDS,
                ttl_dns_cache=30,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_seconds),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),  # engines are no place to meet another client's cookies
            read_bufsize=READ_BUFFER_BYTES,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def send(self, url: str, path: str, body: bytes, headers: Mapping[str, str]) -> UpstreamReply:
        """Send a generation request; return once the first bytes of the answer are there.

        Raises `AttemptFailedError` when the engine cannot be reached, fails, or stays silent for too long.
        """
        response: aiohttp.ClientResponse | None = None
        self.open_requests += 1
        try:
            with _translated(self._settings.first_byte_seconds):
                async with asyncio.timeout(self._settings.first_byte_seconds):
                    response = await self._session.post(
                        url + path,
                        data=body,
                        headers={**self._headers, "Content-Type": "application/json", **headers},
                    )
                    first = await response.content.readany()
            if response.status in RETRIED_STATUSES or not first:
                raise AttemptFailedError(
                    f"engine answered {response.status} {first[:ERROR_BYTES].decode(errors='replace')}",
                    replica_down=response.status in (502, 503) or not first,
                )
        except BaseException:
            if response is not None:
                response.close()
            self._closed()
            raise
        return UpstreamReply(response, first, self._settings.idle_seconds, self._closed)

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
