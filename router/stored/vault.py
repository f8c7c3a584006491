"""Where responses and conversations are kept: in Redis for all routers, or in the memory of one.

It is the one place that keeps text of clients beyond a request. In Redis it is encrypted, with a key that
Redis never sees. Each owner has names of its own: what belongs to another one is like what never was.
"""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cluster.errors import StoreUnavailableError
from cluster.protocol.wire import Keys
from cluster.store.commands import Commands, RedisClient, Script
from router.errors import NotDecidedError
from router.settings import RouterSettings

VERSION_BYTES = 12


class Entry(NamedTuple):
    """Something kept, and the version by which it may be replaced."""

    value: bytes
    version: bytes


class Vault(Protocol):
    """Keeps entries by owner and name, within a lifetime and a number per owner; the oldest ones go first."""

    async def read(self, owner: str, *names: str) -> list[Entry | None]:
        """These entries. Their lifetimes begin again."""

    async def write(self, owner: str, name: str, value: bytes, version: bytes = b"") -> bool:
        """Keep an entry; with a version only in the place of that one. False when it is another one."""

    async def remove(self, owner: str, *names: str) -> None:
        """Forget these entries."""


class MemoryVault:
    """In this process."""

    def __init__(self, settings: RouterSettings) -> None:
        self._seconds, self._most = settings.stored_seconds, settings.stored_entries
        self._owners: dict[str, OrderedDict[str, tuple[Entry, float]]] = {}

    async def read(self, owner: str, *names: str) -> list[Entry | None]:
        """These entries."""
        found: list[Entry | None] = []
        entries = self._owners.get(owner, OrderedDict())
        for name in names:
            entry, expires = entries.get(name, (None, 0.0))
            fresh = entry if expires > time.monotonic() else None
            if fresh is not None:
                entries[name] = fresh, time.monotonic() + self._seconds
            found.append(fresh)
        return found

    async def write(self, owner: str, name: str, value: bytes, version: bytes = b"") -> bool:
        """Keep an entry."""
        entries = self._owners.setdefault(owner, OrderedDict())
        if version and (name not in entries or entries[name][0].version != version):
            return False
        entry = Entry(value, secrets.token_bytes(VERSION_BYTES))
        entries[name] = entry, time.monotonic() + self._seconds
        entries.move_to_end(name)
        while len(entries) > self._most or next(iter(entries.values()))[1] <= time.monotonic():
            entries.popitem(last=False)
        return True

    async def remove(self, owner: str, *names: str) -> None:
        """Forget these entries."""
        for name in names:
            self._owners.get(owner, OrderedDict()).pop(name, None)


class RedisVault:
    """In Redis, encrypted. All methods raise `NotDecidedError` when Redis does not answer."""

    def __init__(self, settings: RouterSettings, redis: RedisClient, keys: Keys) -> None:
        self._seconds, self._most = settings.stored_seconds, settings.stored_entries
        self._ciphers = [AESGCM(hashlib.sha256(key.encode()).digest()) for key in settings.stored_keys]
        self._execute = Commands.of(redis).execute
        self._keep = Script(redis, "keep")
        self._prefix = keys.prefix

    async def read(self, owner: str, *names: str) -> list[Entry | None]:
        """These entries; what cannot be decrypted is not there."""
        keys = [self._key(owner, name) for name in names]
        try:
            values = await asyncio.gather(*[self._execute("GETEX", key, "EX", self._seconds) for key in keys])
        except StoreUnavailableError as error:
            raise NotDecidedError(f"Stored responses cannot be read: {error}") from error
        return [value and self._opened(key, value) for key, value in zip(keys, values, strict=True)]

    async def write(self, owner: str, name: str, value: bytes, version: bytes = b"") -> bool:
        """Keep an entry."""
        key, nonce = self._key(owner, name), secrets.token_bytes(VERSION_BYTES)
        sealed = nonce + self._ciphers[0].encrypt(nonce, value, key.encode())
        arguments: Sequence[str | bytes | int] = (
            sealed, self._seconds, version, int(time.time()), self._most
        )  # fmt: skip
        try:
            return bool(await self._keep([key, self._key(owner, "index")], arguments))
        except StoreUnavailableError as error:
            raise NotDecidedError(f"Responses cannot be stored: {error}") from error

    async def remove(self, owner: str, *names: str) -> None:
        """Forget these entries."""
        keys = [self._key(owner, name) for name in names]
        try:
            await self._execute("UNLINK", *keys)
            await self._execute("ZREM", self._key(owner, "index"), *keys)
        except StoreUnavailableError as error:
            raise NotDecidedError(f"Stored responses cannot be deleted: {error}") from error

    def _key(self, owner: str, name: str) -> str:
        digest = hashlib.sha256(owner.encode()).hexdigest()[:32]
        return f"{self._prefix}:stored:{{{digest}}}:{name}"

    def _opened(self, key: str, value: bytes) -> Entry | None:
        nonce, sealed = value[:VERSION_BYTES], value[VERSION_BYTES:]
        for cipher in self._ciphers:
            try:
                return Entry(cipher.decrypt(nonce, sealed, key.encode()), nonce)
            except InvalidTag:
                continue
        return None
