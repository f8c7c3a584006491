"""A file of API keys: hashed, changed by ``warmroute keys``, and read again by routers when it changes."""

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex, token_urlsafe
from typing import Annotated, TypeAlias

import msgspec
import structlog

from cluster.errors import StartUpError
from router.tenants.keys import Tenant

LOOK_SECONDS = 0.5
"""How often it is looked whether the file has changed."""
MAX_FILE_BYTES = 16 * 1024 * 1024
SHARING = ("tenant", "private", "public", "none")
"""Whose caches a key's requests use: those of its tenant, role, environment and replicas; of each
conversation alone; of everybody; nobody's."""
GROUP = "group:"
"""Begins the name of a cache that keys of several tenants share."""

Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[\w.@-]{1,64}$")]
Sharing: TypeAlias = Annotated[str, msgspec.Meta(pattern=rf"^({'|'.join(SHARING)}|{GROUP}[\w.@-]{{1,64}})$")]
Label: TypeAlias = Annotated[str, msgspec.Meta(max_length=64)]

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One key. The key itself is written nowhere."""

    id: Name
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    tenant: Name
    role: Label = ""
    environment: Label = ""
    replicas: dict[Name, Label] = {}
    """Labels that replicas must have to serve it, such as their region."""
    models: tuple[str, ...] = ()
    """Names of models and adapters that it may use; all when empty."""
    cache: Sharing = "tenant"
    cache_seconds: Annotated[int, msgspec.Meta(ge=0)] = 0
    """After so long what was computed is not used any more; 0 is no limit."""
    cache_headers: bool = True
    """Whether answers carry headers about caches."""
    created: float = 0.0

    def rights(self) -> Tenant:
        """Who sends a request with this key, and what that may use."""
        return Tenant(
            self.tenant,
            self._scope(),
            self.cache_headers,
            frozenset(self.models),
            self.replicas,
            self.cache_seconds,
            private=self.cache == "private",
            unshared=self.cache == "none",
        )

    def _scope(self) -> str:
        """Its parts are separated by a character that no name has."""
        if self.cache == "public":
            return ""
        if self.cache.startswith(GROUP):
            return f"\0{self.cache}"
        parts = (
            self.role,
            self.environment,
            *(f"{name}={label}" for name, label in sorted(self.replicas.items())),
        )
        return "\0".join((self.tenant, *parts)) if any(parts) else self.tenant


class KeyFile:
    """The keys of a file, as one router knows them. A file that becomes unreadable changes nothing."""

    def __init__(self, path: Path) -> None:
        """Raises `StartUpError` when the file cannot be read."""
        self._path = path
        self._read_at = _changed_at(path)
        self.tenants = _tenants(path)

    async def run(self) -> None:
        """Read the file when it has changed, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if (changed := _changed_at(self._path)) != self._read_at:
                    self._read_at = changed
                    self.tenants = await asyncio.to_thread(_tenants, self._path)
                    log.info("api_keys_read", file=str(self._path), keys=len(self.tenants))
            except StartUpError as error:
                log.error("api_keys_not_read", file=str(self._path), reason=str(error))


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file. Raises `StartUpError` when it cannot be read."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise StartUpError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return msgspec.json.decode(path.read_bytes(), type=list[ApiKey])
    except OSError as error:
        raise StartUpError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartUpError(f"{path} is no file of API keys: {error}") from error


def add_key(path: Path, **fields: object) -> tuple[ApiKey, str]:
    """Add a new key to a file, which need not exist yet. Returns it with its secret.

    Raises `StartUpError` when the file cannot be used, or a field is wrong.
    """
    keys = read_keys(path) if path.exists() else []
    secret = f"wr-{token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    try:
        added = msgspec.convert(
            {"id": token_hex(4), "sha256": digest, "created": round(time.time()), **fields}, ApiKey
        )
    except msgspec.ValidationError as error:
        raise StartUpError(str(error)) from error
    _write(path, [*keys, added])
    return added, secret


def revoke_key(path: Path, key_id: str) -> ApiKey:
    """Remove a key from a file. Raises `StartUpError` when it has none of this id."""
    keys = {key.id: key for key in read_keys(path)}
    if (revoked := keys.pop(key_id, None)) is None:
        raise StartUpError(f"{path} has no key {key_id!r}; `warmroute keys list` shows those it has")
    _write(path, list(keys.values()))
    return revoked


def _write(path: Path, keys: list[ApiKey]) -> None:
    """Whole or not at all: routers may read it at any time."""
    try:
        new = path.with_name(f".{path.name}.{token_hex(4)}")
        new.touch(mode=0o600)
        new.write_bytes(msgspec.json.format(msgspec.json.encode(keys)) + b"\n")
        os.replace(new, path)
    except OSError as error:
        raise StartUpError(f"{path}: {error.strerror}") from error


def _tenants(path: Path) -> Mapping[bytes, Tenant]:
    return {bytes.fromhex(key.sha256): key.rights() for key in read_keys(path)}


def _changed_at(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise StartUpError(f"{path}: {error.strerror}") from error
    return found.st_mtime_ns, found.st_ino
