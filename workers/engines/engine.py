"""What an agent asks an engine over HTTP: what it serves, how loaded it is, where its KV events come from.

Needs nothing of the engine but an OpenAI API. What vLLM offers beyond (`/kv_event_sources`, `/metrics`, as of
0.32) is used where it is there.
"""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from workers.errors import EngineProtocolError, EngineUnavailableError
from workers.events.kv_events import EventSource

MAX_REPLY_BYTES = 8 * 1024 * 1024
IDLE_SECONDS = 3.0
"""Idle connections are closed after this: vLLM closes its side after 5 s."""
SUMMED = frozenset(
    {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "process_start_time_seconds",
    }
)
"""Samples that are added up over the ranks of an engine."""
ANY_ADDRESS = frozenset({"*", "0.0.0.0", "[::]", "::"})


@dataclass(frozen=True, slots=True)
class Gauges:
    """One reading of an engine's metrics; 0 where it does not tell."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0
    start_time: float = 0.0
    """When the engine's process started, by its own clock: another value means another process."""
    block_size: int = 0
    capacity_blocks: int = 0
    asleep: bool = False
    cache_discarded: bool = False
    """Whether what it had cached went when it fell asleep."""


class ModelNames(NamedTuple):
    """What clients can ask an engine for."""

    model: str
    aliases: tuple[str, ...]
    """Further names of the same model."""
    adapters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What an engine says of itself when it is found."""

    names: ModelNames
    model_directory: str
    max_model_len: int
    sources: tuple[EventSource, ...]
    gauges: Gauges


class _Card(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class _Sleep(msgspec.Struct):
    is_sleeping: bool = False


class _Publisher(msgspec.Struct):
    endpoint: str
    replay_endpoint: str | None = None
    topic: str = ""
    buffer_steps: int = 10_000
    enable_kv_cache_events: bool = True
    publisher: str | None = "zmq"


class EngineClient:
    """Speaks to one engine. Use it as an async context manager.

    Every method may raise `EngineUnavailableError` or `EngineProtocolError`, and answers within the time
    limit.
    """

    def __init__(self, url: str, api_key: str, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._tells_sleep = True
        """Whether the engine that was found last may know ``/is_sleeping``."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=4, keepalive_timeout=IDLE_SECONDS),
            headers=self._headers,
            timeout=self._timeout,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def discover(self) -> EngineDescription:
        """Find out what the engine serves."""
        self._tells_sleep = True
        base, names = await self._served()
        gauges = await self.gauges()
        return EngineDescription(
            names=names,
            model_directory=await asyncio.to_thread(local_model_directory, base.root or base.id),
            max_model_len=base.max_model_len or 0,
            sources=await self.event_sources(),
            gauges=gauges,
        )

    async def names(self) -> ModelNames:
        """What the engine can be asked for now."""
        return (await self._served())[1]

    async def _served(self) -> tuple[_Card, ModelNames]:
        cards = _decode(await self._get("/v1/models"), _Cards, "/v1/models").data
        bases = [card for card in cards if card.parent is None]
        if not bases:
            raise EngineProtocolError(f"{self.url}/v1/models names no model")
        adapters = tuple(card.id for card in cards if card.parent is not None)
        return bases[0], ModelNames(bases[0].id, tuple(card.id for card in bases[1:]), adapters)

    async def check_health(self) -> None:
        """Ask whether the engine can serve."""
        await self._get("/health")

    async def gauges(self) -> Gauges:
        """Check the engine's health and read its gauges; an engine without metrics has none."""
        await self.check_health()
        text = await self._get("/metrics", optional=True)
        gauges = parse_metrics(text.decode(errors="replace"))
        if not gauges.asleep and self._tells_sleep:
            gauges = replace(gauges, asleep=await self._is_asleep())
        return gauges

    async def _is_asleep(self) -> bool:
        """Whether vLLM in development mode says so: no metric tells of a pause. A busy one may be late."""
        with suppress(EngineUnavailableError, EngineProtocolError):
            body = await self._get("/is_sleeping", optional=True)
            self._tells_sleep = bool(body)
            return bool(body) and bool(_decode(body, _Sleep, "/is_sleeping").is_sleeping)
        return False

    async def event_sources(self) -> tuple[EventSource, ...]:
        """Where the engine publishes KV events; empty when it does not, or cannot tell."""
        body = await self._get("/kv_event_sources", optional=True)
        if not body:
            return ()
        publishers = _decode(body, dict[str, _Publisher], "/kv_event_sources")
        return tuple(
            self._source(int(rank), publisher)
            for rank, publisher in sorted(publishers.items(), key=lambda item: int(item[0]))
            if publisher.enable_kv_cache_events and publisher.publisher == "zmq"
        )

    def _source(self, rank: int, publisher: _Publisher) -> EventSource:
        host = urlsplit(self.url).hostname or "127.0.0.1"
        replay = publisher.replay_endpoint if publisher.buffer_steps > 0 else None
        return EventSource(
            rank,
            reachable_endpoint(publisher.endpoint, host),
            reachable_endpoint(replay, host) if replay else None,
            publisher.topic,
            on_all_interfaces=any(map(_is_on_all_interfaces, (publisher.endpoint, replay or ""))),
        )

    async def _get(self, path: str, optional: bool = False) -> bytes:
        """The body of a reply; empty when ``optional`` and the engine does not know the path."""
        assert self._session is not None, "use EngineClient as an async context manager"
        try:
            async with self._session.get(self.url + path) as response:
                body, status = await _read(response), response.status
        except aiohttp.ClientConnectorError as error:
            refused = isinstance(error.os_error, ConnectionRefusedError)
            reason = "connection refused" if refused else error.os_error.strerror or str(error)
            raise EngineUnavailableError(f"{self.url}: {reason}", refused) from error
        except TimeoutError as error:
            raise EngineUnavailableError(
                f"{self.url}{path} did not answer in {self._timeout.total:g} s"
            ) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise EngineUnavailableError(f"{self.url}{path}: {error or type(error).__name__}") from error
        if status == 200:
            return body
        if status in (404, 405, 501) and optional:
            return b""
        if status in (401, 403):
            raise EngineProtocolError(
                f"{self.url}{path} refuses the key: set WARMROUTE_ENGINE_API_KEY to the engine's"
            )
        raise EngineUnavailableError(f"{self.url}{path} answers {status}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise ValueError(f"more than {MAX_REPLY_BYTES} bytes")
    return bytes(body)


def parse_metrics(text: str) -> Gauges:
    """Read the few samples that matter here from a Prometheus text; ranks of one engine are added up."""
    sums: dict[str, float] = {}
    usages: list[float] = []
    sleeps: set[str] = set()
    block_size = capacity = 0
    for line in text.splitlines():
        if not line.startswith(("vllm:", "process_start")):
            continue
        name = line.partition("{")[0].partition(" ")[0]
        if name == "vllm:cache_config_info":
            block_size = _label(line, "block_size") or block_size
            capacity += _label(line, "num_gpu_blocks")
        elif name == "vllm:kv_cache_usage_perc":
            usages.append(_value(line))
        elif name == "vllm:engine_sleep_state":
            state = line.partition('sleep_state="')[2].partition('"')[0]
            if bool(_value(line)) != (state == "awake"):
                sleeps.add(state)
        elif name in SUMMED:
            sums[name] = sums.get(name, 0.0) + _value(line)
    return Gauges(
        running=int(sums.get("vllm:num_requests_running", 0)),
        waiting=int(sums.get("vllm:num_requests_waiting", 0)),
        kv_usage=sum(usages) / len(usages) if usages else 0.0,
        prefix_queries=int(sums.get("vllm:prefix_cache_queries_total", 0)),
        prefix_hits=int(sums.get("vllm:prefix_cache_hits_total", 0)),
        start_time=sums.get("process_start_time_seconds", 0.0),
        block_size=block_size,
        capacity_blocks=capacity,
        asleep="awake" in sleeps,
        cache_discarded=len(sleeps) > 1,
    )


def _value(line: str) -> float:
    try:
        value = float(line.rpartition(" ")[2])
    except ValueError:
        return 0.0
    return value if value == value else 0.0  # NaN says nothing


def _label(line: str, name: str) -> int:
    found = re.search(rf'[{{,]{name}="(\d+)"', line)
    return int(found[1]) if found else 0


def _is_on_all_interfaces(endpoint: str) -> bool:
    scheme, _, rest = endpoint.partition("://")
    return scheme == "tcp" and rest.rpartition(":")[0] in ANY_ADDRESS


def reachable_endpoint(endpoint: str, host: str) -> str:
    """The address to connect to for one that an engine on ``host`` binds."""
    if not _is_on_all_interfaces(endpoint):
        return endpoint
    port = endpoint.rpartition(":")[2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def local_model_directory(root: str) -> str:
    """The folder of a model that an engine names by its folder or by its Hugging Face id; as named if
    not found.
    """
    if Path(root).is_dir():
        return root
    try:
        return str(snapshot_download(root, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError, ValueError):
        return root


def _decode(body: bytes, kind: Any, path: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise EngineProtocolError(f"{path}: {error}") from error
