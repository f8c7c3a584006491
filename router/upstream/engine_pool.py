"""Connections to engines that are kept and used again."""

import asyncio
import re
import ssl
from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from router.errors import AttemptFailedError
from router.http.time_limits import Watchdog
from router.upstream.engine_connection import EngineConnection

KEEP_ALIVE_SECONDS = 4.0
"""Below the 5 s after which vLLM's server closes idle connections, so that none is reused as it closes."""
MAX_IDLE_PER_ENGINE = 256
"""Connections kept without work; those beyond are closed."""
MAX_ENGINES = 8192
"""Engines remembered; beyond, the one not used for longest is looked up anew."""

_PLAIN = re.compile(r"[!-?A-~]+")
"""Printable ASCII without "@": nothing that could end a line of a request, and no passwords."""


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

    @property
    def heard_at(self) -> float:
        """When it sent its last bytes over a connection that is still open, in the event loop's time."""
        times = (connection.heard_at for connection in self.connections if not connection.is_closing)
        return max(times, default=float("-inf"))


class EnginePool:
    """Opens connections, and keeps those that are free for at most `KEEP_ALIVE_SECONDS`."""

    def __init__(self, connect_seconds: float, watchdog: Watchdog) -> None:
        self._connect_seconds = connect_seconds
        self._watchdog = watchdog
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._connections: set[EngineConnection] = set()
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

    def heard_at(self, url: str) -> float:
        """When the engine at this URL sent its last bytes: see `Engine.heard_at`."""
        engine = self._engines.get(url)
        return engine.heard_at if engine is not None else float("-inf")

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
            self._connections.discard(connection)
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
        if connection.is_closing:  # whoever sent a request now would never hear of it again
            raise AttemptFailedError("the engine closed a new connection at once", replica_down=True)
        self._watchdog.add(connection)
        self._connections.add(connection)
        engine.connections.add(connection)
        return connection

    def close(self) -> None:
        """Cut every connection."""
        for connection in list(self._connections):
            connection.abort()
