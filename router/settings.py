"""Settings of a router, read from the environment once (prefix ``WARMROUTE_``)."""

import json
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from cluster.errors import StartUpError
from cluster.index.prefix_index import DEFAULT_MAX_BLOCKS
from cluster.prompts.chat_rendering import ChatOptions
from cluster.settings import ClusterSettings, name_pairs
from policies.catalog import DEFAULT_POLICY, POLICIES
from router.tenants.key_file import read_keys
from router.tenants.keys import EVERYBODY, header_forms

TenantName: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]
"""It stands in every log line of the tenant's requests."""

URL = re.compile(r"https?://\S+")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")
MIN_SECRET = 16
"""Characters."""
STOP_MARGIN_SECONDS = 7.0
"""For what a stopping router does besides waiting."""


class RouterSettings(ClusterSettings):
    """Where a router listens, how it decides, and its bounds."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on."""
    workers: int = Field(1, ge=1, le=256)
    """Processes that share the port, each a router of its own with these bounds of its own: about one per CPU
    core that is free for them."""
    ready_seconds: float = Field(0.0, ge=0)
    """How long a router that starts may take to learn the fleet's state before it takes requests."""
    unready_seconds: float = Field(0.0, ge=0, le=3600)
    """How long a router that was asked to stop takes requests on while ``/readyz`` says 503, so that load
    balancers see it."""
    grace_seconds: float = Field(10.0, ge=0, le=3600)
    """How long open answers may then take to finish before the router ends them with an error."""
    policy: str = DEFAULT_POLICY
    """How replicas are chosen."""
    tokenizers: Annotated[dict[str, Path], NoDecode] = Field(default_factory=dict)
    """MODEL=DIRECTORY pairs, separated by commas; other models are read from the engine's own directory."""
    model_aliases: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    """ALIAS=MODEL pairs, separated by commas: further names by which JSON requests may ask for a model, and
    which engines do not see."""
    chat_options: Annotated[dict[str, ChatOptions], NoDecode] = Field(default_factory=dict)
    """What engines' command lines say of chat templates, by model, as JSON: docs/rendering.md."""
    api_keys: Annotated[dict[TenantName, tuple[str, ...]], NoDecode] = Field(default_factory=dict, repr=False)
    """TENANT=KEY pairs, separated by commas; a tenant may have several keys; empty lets everybody in."""
    share_cache: Annotated[tuple[tuple[str, ...], ...], NoDecode] = ()
    """Groups of tenants that share caches, ``a+b,c+d``, or ``*`` for all; other tenants share with nobody."""
    hide_cache_headers: Annotated[frozenset[str], NoDecode] = frozenset()
    """Tenants, separated by commas, whose answers carry no headers about replicas and caches; ``*`` for
    everybody."""
    api_keys_file: Path | None = None
    """File of further API keys with their rights, as ``warmroute keys`` writes it; read when it changes."""
    cache_seconds: Annotated[dict[TenantName, Annotated[int, Field(ge=1)]], NoDecode] = Field(
        default_factory=dict
    )
    """TENANT=SECONDS pairs, separated by commas; ``*`` for all others: after so long what was computed for a
    tenant is not used any more."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins, separated by commas, whose pages may use the API from browsers: ``https://chat.example.com``;
    ``*`` for all."""
    open_metrics: bool = False
    """Whether ``/metrics`` answers everybody also where others than this machine can reach it."""
    max_body_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    max_body_bytes_in_flight: int = Field(256 * 1024 * 1024, ge=2048)
    """Of all request bodies that are held at once; beyond it a request is answered with 429."""
    max_open_requests: int = Field(4096, ge=1)
    """Beyond it a request is answered with 429."""
    max_attempts: int = Field(3, ge=1, le=16)
    """Replicas tried for one request before the client gets an error."""
    max_paused_seconds: float = Field(600.0, ge=0)
    """Longest wait for room in KV memory, with the policy `programs`; 0: nobody waits for it."""
    connect_seconds: float = Field(2.0, gt=0)
    first_byte_seconds: float = Field(600.0, gt=0)
    """Queueing and prefill on the engine must be over within this time: the limit for streams."""
    answer_seconds: float = Field(3600.0, gt=0)
    """An answer that is not streamed must be complete within this time, with all that it generates."""
    idle_seconds: float = Field(300.0, gt=0)
    """Longest silence of an engine in the middle of a reply."""
    body_seconds: float = Field(60.0, gt=0)
    """How long a request body may take to arrive."""
    stalled_client_seconds: float = Field(300.0, gt=0)
    """How long a client may take nothing of its answer; the engine then stops working on it."""
    failed_replica_seconds: float = Field(1.0, ge=0)
    """A replica that could not be reached is left alone for this long."""
    max_blocks: int = Field(DEFAULT_MAX_BLOCKS, ge=1)
    """Distinct blocks in the prefix index."""
    remembered_bytes: int = Field(64 * 1024 * 1024, ge=0)
    """Of conversations' last requests, to say why a later turn differs; they never leave the process."""

    stored_responses: Literal["off", "memory", "redis"] = "off"
    """Whether responses and conversations of the Responses API are kept, text and all: not at all, in the
    memory of one router, or encrypted in Redis for all of them."""
    stored_keys: Annotated[tuple[str, ...], NoDecode] = Field((), repr=False, validate_default=True)
    """Secrets of at least 16 characters, separated by commas: the first one encrypts what is kept in Redis,
    all of them decrypt it. The same for all routers."""
    stored_seconds: int = Field(24 * 3600, ge=60)
    """How long a response is kept after it was last used."""
    stored_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    """The largest response or conversation that is kept."""
    token_exact: Annotated[frozenset[str], NoDecode] = frozenset()
    """Models, separated by commas, whose kept responses are gone on from in the tokens that they generated;
    ``*`` for all."""
    stored_entries: int = Field(10_000, ge=16)
    """Responses, conversations and pieces of streams kept of one tenant; beyond, the oldest are dropped."""

    otlp_endpoint: str = ""
    """Base URL of an OpenTelemetry collector that takes traces over HTTP; empty: no traces."""
    otlp_sample: float = Field(1.0, ge=0, le=1)
    """Share of requests traced, of those that come without a trace of their own."""

    @property
    def stop_seconds(self) -> float:
        """After so long a router that was asked to stop has stopped, or hangs."""
        return self.unready_seconds + self.grace_seconds + STOP_MARGIN_SECONDS

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        if value not in POLICIES:
            raise ValueError(f"unknown policy, choose one of {', '.join(sorted(POLICIES))}")
        return value

    @field_validator("max_body_bytes_in_flight")
    @classmethod
    def _fits_a_body(cls, value: int, info: ValidationInfo) -> int:
        # One address may hold half of it with bodies that arrive.
        if value < 2 * info.data.get("max_body_bytes", 0):
            raise ValueError("must be at least twice the size of one body (max_body_bytes)")
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _can_trace(cls, value: str) -> str:
        if value and not URL.fullmatch(value):
            raise ValueError("expected a URL, such as http://127.0.0.1:4318")
        if value and not _installed("opentelemetry.exporter.otlp.proto.http"):
            raise ValueError(
                "packages are missing for it, which the extra tracing brings: install warmroute[tracing]"
            )
        return value

    @field_validator("stored_responses")
    @classmethod
    def _can_encrypt(cls, value: str) -> str:
        if value != "off" and not _installed("cryptography"):
            raise ValueError(
                "a package is missing for it, which the extra stored brings: install warmroute[stored]"
            )
        return value

    @field_validator("stored_keys", "token_exact", "cors_origins", "hide_cache_headers", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return _names(value, ",") if isinstance(value, str) else value

    @field_validator("stored_keys")
    @classmethod
    def _usable_secrets(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("stored_responses") == "redis" and not value:
            raise ValueError("needed for WARMROUTE_STORED_RESPONSES=redis")
        if any(len(key) < MIN_SECRET for key in value):
            raise ValueError(f"a key needs at least {MIN_SECRET} characters")
        return value

    @field_validator("tokenizers", "model_aliases", "cache_seconds", mode="before")
    @classmethod
    def _of_names(cls, value: object) -> object:
        return dict(name_pairs(value)) if isinstance(value, str) else value

    @field_validator("tokenizers")
    @classmethod
    def _have_tokenizers(cls, value: dict[str, Path]) -> dict[str, Path]:
        for directory in value.values():
            if not directory.is_dir():
                raise ValueError(f"no directory {directory}")
        return value

    @field_validator("chat_options", mode="before")
    @classmethod
    def _decoded(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("chat_options")
    @classmethod
    def _templates(cls, value: dict[str, ChatOptions]) -> dict[str, ChatOptions]:
        for options in value.values():
            if options.chat_template is not None and not options.chat_template.is_file():
                raise ValueError(f"no file {options.chat_template}")
        return value

    @field_validator("api_keys", mode="before")
    @classmethod
    def _keys(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {name: (keys,) if isinstance(keys, str) else keys for name, keys in value.items()}
        if not isinstance(value, str):
            return value
        keys: dict[str, list[str]] = {}
        for name, key in name_pairs(value):
            keys.setdefault(name, []).append(key)
        return keys

    @field_validator("api_keys")
    @classmethod
    def _usable_keys(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        owners: dict[bytes, str] = {}
        for name, keys in value.items():
            if not keys or not all(key.isprintable() and key == key.strip() != "" for key in keys):
                raise ValueError(f"a key of {name} is empty or holds characters that no header can carry")
            for form in (form for key in keys for form in header_forms(key)):
                if (owner := owners.setdefault(form, name)) != name:
                    raise ValueError(f"{owner} and {name} have the same key")
        return value

    @field_validator("share_cache", mode="before")
    @classmethod
    def _groups(cls, value: object) -> object:
        return [_names(group, "+") for group in _names(value, ",")] if isinstance(value, str) else value

    @field_validator("share_cache")
    @classmethod
    def _known_groups(
        cls, value: tuple[tuple[str, ...], ...], info: ValidationInfo
    ) -> tuple[tuple[str, ...], ...]:
        if value == ((EVERYBODY,),):
            return value
        names = [name for group in value for name in group]
        _require_tenants(names, info)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)}: a tenant belongs to one group at most")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [origin for origin in value if origin != EVERYBODY and not ORIGIN.fullmatch(origin)]:
            raise ValueError(f"{wrong[0]!r} is no origin: scheme://host[:port], lower case, without a path")
        return value

    @field_validator("hide_cache_headers", "cache_seconds")
    @classmethod
    def _known_tenants(cls, value: frozenset[str] | dict[str, int], info: ValidationInfo) -> object:
        _require_tenants(set(value) - {EVERYBODY}, info)
        return value

    @field_validator("api_keys_file")
    @classmethod
    def _readable_keys(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                read_keys(value)
            except StartUpError as error:
                raise ValueError(str(error)) from error
        return value


def _names(value: str, separator: str) -> list[str]:
    return [name.strip() for name in value.split(separator) if name.strip()]


def _require_tenants(names: Iterable[str], info: ValidationInfo) -> None:
    known = info.data.get("api_keys")  # missing when those are wrong themselves
    if known is not None and (unknown := sorted(set(names) - known.keys())):
        raise ValueError(f"WARMROUTE_API_KEYS has no tenant {', '.join(unknown)}")


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package around it
        return False
