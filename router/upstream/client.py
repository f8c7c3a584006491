"""HTTP to engines: connections that are kept, limits on every wait, and what failures say about request and
engine.
"""

import asyncio
import re
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from router.errors import AttemptFailedError, Repeat, ReplyBrokenError, ReplyTooLargeError
from router.http.sse import UNREADABLE, error_status
from router.http.time_limits import Watchdog
from router.settings import RouterSettings
from router.upstream.engine_connection import EngineConnection
from router.upstream.failures import FAILED_STATUSES, MAX_ERROR_BYTES, failed_answer
from router.upstream.reply import UpstreamReply

SMALL_REQUEST_SECONDS = 10.0
HEALTH_SECONDS = 2.0
"""How long an engine may take to say that it lives."""
ALIVE_SECONDS = 3.0
"""An engine that has sent a byte of any answer within this time lives, whatever its health check says."""
KEEP_ALIVE_SECONDS = 4.0
"""Below the 5 s after which vLLM's server closes idle connections, so that none is reused as it closes."""
MAX_IDLE_PER_ENGINE = 256
"""Connections kept without work; those beyond are closed."""
JSON_BODY = {"Content-Type": "application/json"}
MAX_ENGINES = 8192
"""Engines remembered; beyond, the one not used for longest is looked up anew."""

_PLAIN = re.compile(r"[!-?A-~]+")
"""Printable ASCII without "@": nothing that could end a line of a request, and no passwords."""
_ENDS_A_LINE = re.compile(r"[\r\n\0]")


class _Tokens(msgspec.Struct):
    tokens: list[int]


@dataclass(slots=True)
class Engine:
    """Where an engine is, how requests to it begin, and the connections to it."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    authority: str
    """What the Host header says."""
    path_prefix: str
    connections: set[EngineConnection] = field(default_factory=set)
    idle: list[EngineConnection] = field(default_factory=list)
    """Of the connections, those that carry no request; the last used at the end."""


class EnginePool:
    """Opens connections, and keeps those that are free for at most `KEEP_ALIVE_SECONDS`."""

    def __init__(self, connect_seconds: float, watchdog: Watchdog) -> None:
        self._connect_seconds = connect_seconds
        self._watchdog = watchdog
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._tls: ssl.SSLContext | None = None

    def engine(self, url: str) -> Engine:
        """The engine at this URL. Raises `AttemptFailedError` when that is no URL of an HTTP server."""
        engine = self._engines.get(url)
        if engine is None:
            engine = self._engines[url] = self._parse(url)
            if len(self._engines) > MAX_ENGINES:
                self._engines.popitem(last=False)
        self._engines.move_to_end(url)
        return engine

    def _parse(self, url: str) -> Engine:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise AttemptFailedError(f"{url!r} is no URL: {error}", replica_down=True) from error
        if (
            parts.scheme not in ("http", "https")
            or not host
            or not _PLAIN.fullmatch(parts.netloc + parts.path)
        ):
            raise AttemptFailedError(f"{url!r} is no URL of an engine", replica_down=True)
        tls = None
        if parts.scheme == "https":
            tls = self._tls = self._tls or ssl.create_default_context()
        return Engine(host, port or (443 if tls else 80), tls, parts.netloc, parts.path.rstrip("/"))

    def idle_connection(self, engine: Engine) -> EngineConnection | None:
        """A connection that was used before; None when there is none."""
        now = asyncio.get_running_loop().time()
        while engine.idle:
            connection = engine.idle.pop()
            if not connection.is_closing and now < connection.deadline:
                return connection
            connection.abort()
        return None

    def received_at(self, url: str) -> float:
        """When this engine sent its last bytes over a connection still open, in the event loop's time."""
        engine = self._engines.get(url)
        open_ones = (one for one in engine.connections if not one.is_closing) if engine is not None else ()
        return max((one.received_at for one in open_ones), default=float("-inf"))

    async def connect(self, engine: Engine) -> EngineConnection:
        """A new connection. Raises `AttemptFailedError`."""
        loop = asyncio.get_running_loop()

        def free(connection: EngineConnection) -> None:
            if len(engine.idle) < MAX_IDLE_PER_ENGINE:
                connection.deadline = loop.time() + KEEP_ALIVE_SECONDS
                engine.idle.append(connection)
            else:
                connection.abort()

        def lost(connection: EngineConnection) -> None:
            self._watchdog.discard(connection)
            engine.connections.discard(connection)
            if connection in engine.idle:
                engine.idle.remove(connection)

        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: EngineConnection(free, lost), engine.host, engine.port, ssl=engine.tls
                )
        except TimeoutError as error:
            raise AttemptFailedError(
                f"no connection within {self._connect_seconds:g} s", replica_down=True, timed_out=True
            ) from error
        except OSError as error:
            raise AttemptFailedError(str(error) or type(error).__name__, replica_down=True) from error
        if connection.is_closing:  # a request sent now would never have an answer
            raise AttemptFailedError("the engine closed a new connection at once", replica_down=True)
        self._watchdog.add(connection)
        engine.connections.add(connection)
        return connection

    def close(self) -> None:
        """Cut every connection."""
        for engine in self._engines.values():
            for connection in list(engine.connections):
                connection.abort()


class Upstream:
    """The router's client of all engines. Create it inside a running event loop."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self.open_requests = 0
        """Clients' requests sent to engines whose answers have not been closed."""
        key = settings.engine_api_key
        self._authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        self._limits = {
            True: (settings.first_byte_seconds, "WARMROUTE_FIRST_BYTE_SECONDS"),
            False: (settings.answer_seconds, "WARMROUTE_ANSWER_SECONDS"),
        }
        """Of streams and of other answers: how long, and which setting says so."""
        limits = settings.first_byte_seconds, settings.answer_seconds, settings.idle_seconds
        self._watchdog = Watchdog(min(1.0, min(limits) / 10))
        self._pool = EnginePool(settings.connect_seconds, self._watchdog)
        self._questions = EnginePool(settings.connect_seconds, self._watchdog)
        """For small questions: that an engine answers these with errors is no sign that it lives."""

    async def close(self) -> None:
        """Close every connection."""
        self._pool.close()
        self._questions.close()
        self._watchdog.close()

    async def send(
        self,
        url: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        streamed: bool,
    ) -> UpstreamReply:
        """Send a client's request; return once it is certain that its answer may begin.

        Of a stream the first event decides; an error there that blames the request is an answer. Any other
        answer is read whole, so that it can still be repeated. Raises `AttemptFailedError` when the engine
        cannot be reached, fails, or stays silent for too long.
        """
        self.open_requests += 1
        seconds, setting = self._limits[streamed]
        reply = UpstreamReply(self._settings.idle_seconds, self._closed, setting)
        try:
            await self._ask(self._pool, reply, url, "POST", path, body, headers, seconds)
            await self._require_sound(reply, streamed)
        except ReplyBrokenError as error:
            reply.close()
            # An engine was at work all this time; one that is dead was found out long before.
            is_final = reply.took_too_long and not streamed
            raise await self._failure(url, error, is_final) from error
        except BaseException:
            reply.close()
            raise
        return reply

    async def _require_sound(self, reply: UpstreamReply, streamed: bool) -> None:
        """Raises for an answer of which nothing should reach the client."""
        status = reply.status
        if status in FAILED_STATUSES or (status < 400 and not reply.first):
            with suppress(ReplyBrokenError):  # then its beginning has to do
                await reply.read_all(MAX_ERROR_BYTES)
            raise failed_answer(status, reply.first, reply.headers)
        if not streamed or not reply.is_stream:
            await reply.read_all()
            return
        event = await reply.read_event()
        error = error_status(event)
        if not event or error == 429 or (error or 0) >= 500:
            text = event.partition(b"data:")[2].strip()
            raise failed_answer(error or status, text, reply.headers)
        reply.has_token = error is None

    async def _failure(self, url: str, error: ReplyBrokenError, is_final: bool) -> AttemptFailedError:
        """What it says about request and engine that an answer did not come or broke off."""
        if isinstance(error, ReplyTooLargeError):
            return AttemptFailedError(f"the answer is {error}", replica_down=False, repeat=Repeat.NEVER)
        if not error.timed_out:
            return AttemptFailedError(str(error), replica_down=True, repeat=Repeat.ONCE)
        if is_final or await self.is_healthy(url):  # it works, and would have worked longer
            return AttemptFailedError(str(error), replica_down=False, timed_out=True, repeat=Repeat.NEVER)
        return AttemptFailedError(str(error), replica_down=True, timed_out=True)

    async def _ask(
        self,
        pool: EnginePool,
        reply: UpstreamReply,
        url: str,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        seconds: float,
    ) -> None:
        engine = pool.engine(url)
        head = (
            f"{method} {engine.path_prefix}{path} HTTP/1.1\r\nHost: {engine.authority}\r\n"
            f"Content-Length: {len(body)}\r\n{self._authorization}"
        )
        for name, value in headers.items():
            if _ENDS_A_LINE.search(value):
                raise ValueError(f"header {name} would end its line")
            head += f"{name}: {value}\r\n"
        request = f"{head}\r\n".encode("latin-1") + body
        connection = pool.idle_connection(engine)
        if connection is not None and await reply.ask(connection, request, seconds):
            return
        # An engine may close an idle connection just as it is used. That says nothing about the engine, and
        # nothing was answered: the request is sent once more, on a new connection.
        try:
            new = await pool.connect(engine)
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
        return self._sends(url) or await self._says_healthy(url) or self._sends(url)

    def _sends(self, url: str) -> bool:
        return asyncio.get_running_loop().time() - self._pool.received_at(url) < ALIVE_SECONDS

    async def _says_healthy(self, url: str) -> bool:
        with suppress(AttemptFailedError):
            return (await self.question(url, "GET", "/health", HEALTH_SECONDS)).status < 500
        return False

    async def tokenise(self, url: str, body: Mapping[str, Any]) -> list[int] | None:
        """The engine's own tokens for a prompt; None when it does not offer a ``/tokenize`` like vLLM's.

        Raises `AttemptFailedError` when it cannot be reached.
        """
        content = msgspec.json.encode(body)
        reply = await self.question(url, "POST", "/tokenize", SMALL_REQUEST_SECONDS, content)
        if reply.status >= 500:
            raise AttemptFailedError(f"engine answered {reply.status}", replica_down=False)
        try:
            return msgspec.json.decode(reply.first, type=_Tokens).tokens if reply.status == 200 else None
        except UNREADABLE:
            return None

    async def question(
        self, url: str, method: str, path: str, seconds: float, body: bytes = b""
    ) -> UpstreamReply:
        """The whole answer to a small request. Raises `AttemptFailedError`."""
        reply = UpstreamReply(seconds, lambda: None)
        try:
            async with asyncio.timeout(seconds):
                await self._ask(self._questions, reply, url, method, path, body, JSON_BODY, seconds)
                await reply.read_all()
        except TimeoutError as error:
            raise AttemptFailedError(
                f"no answer within {seconds:g} s", replica_down=True, timed_out=True
            ) from error
        except ReplyBrokenError as error:
            raise AttemptFailedError(str(error), replica_down=True, timed_out=error.timed_out) from error
        finally:
            reply.close()
        return reply
