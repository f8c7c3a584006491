"""Settings that routers and agents share, read from the environment once (prefix ``WARMROUTE_``)."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from cluster.errors import StartUpError
from cluster.protocol.wire import Keys

S = TypeVar("S", bound=BaseSettings)

PREFIX = "WARMROUTE_"
URL_FORMS = (
    "redis://[user:password@]host:port[/db] (rediss:// with TLS), unix:///path/to/socket, "
    "redis+sentinel://[user:password@]host:port,host:port/service[/db] or "
    "redis+cluster://[user:password@]host:port,host:port (rediss+… with TLS)"
)
REDIS_URL = re.compile(r"(rediss?(\+sentinel|\+cluster)?|unix)://")
MIN_TOKEN_LENGTH = 16
DEPLOYMENT = re.compile(r"[A-Za-z0-9_.-]+")
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")


class EnvironmentSettings(BaseSettings):
    """Settings of any command."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _without_service_links(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Beside a Service ``warmroute`` Kubernetes sets WARMROUTE_PORT=tcp://10.0.0.1:8000 for every pod."""
        return {name: value for name, value in data.items() if not _is_service_link(name, value)}


def name_pairs(value: str) -> list[tuple[str, str]]:
    """The names and values of ``NAME=VALUE,…``. Raises `ValueError` for what is none."""
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if not all(separator and name.strip() and content.strip() for name, separator, content in pairs):
        raise ValueError("expected NAME=VALUE pairs separated by commas")
    return [(name.strip(), content.strip()) for name, _, content in pairs]


def _is_service_link(name: str, value: object) -> bool:
    return name.endswith("port") and isinstance(value, str) and SERVICE_LINK.match(value) is not None


class ClusterSettings(EnvironmentSettings):
    """Where Redis is, and how long a replica lives without a heartbeat."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    redis_url: str = Field("redis://127.0.0.1:6379/0", min_length=1, repr=False)
    """Redis that routers and agents share."""
    deployment: str = "warmroute"
    """First part of every key in Redis: several deployments can share one Redis."""
    heartbeat_seconds: float = Field(0.5, gt=0, le=60)
    lease_seconds: float = Field(3.0, gt=0, le=600)
    """A replica whose agent is silent for this long is gone."""
    engine_api_key: str = Field("", repr=False)
    """The shared secret with which routers and agents reach engines; empty when engines ask for none."""
    admin_token: str = Field("", repr=False)
    """Opens the admin API of routers; empty: it is open on loopback addresses and closed elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """debug, info, warning or error."""

    @field_validator("redis_url")
    @classmethod
    def _of_redis(cls, value: str) -> str:
        if value and not REDIS_URL.match(value):
            raise ValueError(f"bad Redis URL. It must be {URL_FORMS}")
        return value

    @field_validator("deployment")
    @classmethod
    def _can_be_a_key(cls, value: str) -> str:
        if not DEPLOYMENT.fullmatch(value):
            raise ValueError("letters, digits and . _ - are allowed")
        return value

    @field_validator("admin_token")
    @classmethod
    def _hard_to_guess(cls, value: str) -> str:
        if value and (len(value) < MIN_TOKEN_LENGTH or not value.isascii() or not value.isprintable()):
            raise ValueError(f"at least {MIN_TOKEN_LENGTH} printable ASCII characters are needed")
        if value != value.strip():
            raise ValueError("a token neither begins nor ends with a space")
        return value

    @property
    def admin_headers(self) -> dict[str, str]:
        """What opens the admin API of a router."""
        return {"Authorization": f"Bearer {self.admin_token}"} if self.admin_token else {}

    @property
    def keys(self) -> Keys:
        """Names of everything this deployment keeps in Redis."""
        return Keys(self.deployment)


def load_settings(settings: type[S], **values: Any) -> S:
    """Read settings from the environment; ``values`` that are not None win.

    Raises `StartUpError` naming each bad setting by its environment variable.
    """
    try:
        return settings(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        lines = [_describe(settings, issue) for issue in error.errors()]
        raise StartUpError("bad settings: " + "; ".join(lines)) from error


def checked_url(option: str, url: str) -> str:
    """A base URL of HTTP without its last slash. Raises `StartUpError` that says how it is written."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StartUpError(
            f"{option} {url}: expected a URL, such as http://{url.rpartition('//')[2] or 'HOST'}"
        )
    return url.rstrip("/")


def masked(url: str) -> str:
    """The URL with its password, if it holds one, replaced by ``***``."""
    url = re.sub(r"^([^:/]+://[^:@/?]*):.*@", r"\1:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", url)


def is_loopback(host: str) -> bool:
    """Whether an address, or the name of one, is of this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _describe(settings: type[BaseSettings], issue: ErrorDetails) -> str:
    name = str(issue["loc"][0]) if issue["loc"] else ""
    field = settings.model_fields.get(name)
    given = f" (got {issue['input']!r})" if field is None or field.repr or not issue["input"] else ""
    prefix = settings.model_config.get("env_prefix", "")
    return f"{prefix}{name}".upper() + f": {issue['msg'].removeprefix('Value error, ')}{given}"
