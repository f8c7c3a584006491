"""What operators want done with single replicas and blocks, for all routers of a deployment.

One hash in Redis holds a field for each command. One that is taken back is switched off and kept for a day:
so a field that is missing was lost by Redis, and the first router that remembers it writes it again.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import TypeAlias

import msgspec

from cluster.errors import StoreRefusesError
from cluster.protocol.wire import Keys
from cluster.store.commands import Commands, RedisClient

KEPT_SECONDS = 24 * 3600.0
"""How long a drain waits for a replica that is gone, and how long all else is remembered."""
SEEN_SECONDS = 3600.0
"""How often it is noted that a drained replica is still there."""
MAX_PREFIXES = 100
"""Resets of single blocks; the oldest are dropped."""
MAX_CACHES = 1_000
"""Resets of caches; beyond, all caches are reset and these are dropped."""
TENANT, MODEL = "tenant=", "model="
"""How the target of a reset of caches begins; all caches have none."""


class Kind(StrEnum):
    """What a field says of its target."""

    DRAIN = "drain"
    """A replica gets no new requests."""
    SEEN = "seen"
    """A drained replica was there."""
    RESET_REPLICA = "reset"
    """Routers forget what a replica holds, and read it again."""
    RESET_PREFIX = "prefix"
    """Routers forget who holds a block."""
    RESET_CACHE = "cache"
    """Nothing that was computed before is used again, by a tenant, of a model, or at all."""


class OperatorCommand(msgspec.Struct, frozen=True, array_like=True):
    """A command in force, or one that was taken back."""

    on: bool
    at: float
    """Seconds since 1970, which also tells one reset from the next."""


NEVER = OperatorCommand(False, 0.0)


Name: TypeAlias = tuple[Kind, str]
"""Kind and target: a replica's id, a block's key as 16 hexadecimal digits, or whose caches."""
CommandsByName: TypeAlias = Mapping[Name, OperatorCommand]


class CacheResets(msgspec.Struct, frozen=True):
    """When caches were reset, in seconds since 1970; never is 0."""

    everything: float = 0.0
    tenants: Mapping[str, float] = {}
    models: Mapping[str, float] = {}


def cache_resets(issued: CommandsByName) -> CacheResets:
    """The resets of caches among these commands, without those that a later one of everything covers."""
    resets = {target: command.at for (kind, target), command in issued.items() if kind is Kind.RESET_CACHE}
    everything = resets.get("", 0.0)
    tenants, models = (
        {
            target.removeprefix(begin): at
            for target, at in resets.items()
            if target.startswith(begin) and at > everything
        }
        for begin in (TENANT, MODEL)
    )
    return CacheResets(everything, tenants, models)


class CommandStore:
    """The commands in Redis. Every method raises `StoreUnavailableError` when Redis does not answer."""

    def __init__(self, redis: RedisClient, keys: Keys) -> None:
        self._execute = Commands.of(redis).execute
        self._key = f"{keys.prefix}:operator_commands"
        self._known: dict[Name, OperatorCommand] = {}
        self._lock = asyncio.Lock()  # a reading that began before a command must not end after it

    async def read(self, replicas: Collection[str]) -> CommandsByName:
        """All commands; ``replicas`` are those that are there now. What is outdated is dropped."""
        async with self._lock:
            found = _decoded(await self._execute("HGETALL", self._key))
            self._known |= found
            with suppress(StoreRefusesError):  # what is known holds without it
                await self._keep(found, replicas)
            return dict(self._known)

    async def _keep(self, found: dict[Name, OperatorCommand], replicas: Collection[str]) -> None:
        """Drop what is outdated, and write again what Redis has lost."""
        old = outdated(self._known, time.time())
        for name in old:
            del self._known[name]
        for name in old & found.keys():
            await self._execute("HDEL", self._key, _field(name))
        for name in self._known.keys() - found.keys():
            encoded = msgspec.json.encode(self._known[name])
            await self._execute("HSETNX", self._key, _field(name), encoded)
        for target in _unnoticed(self._known, time.time()) & set(replicas):
            await self._write((Kind.SEEN, target), True)

    async def issue(self, kind: Kind, target: str, on: bool = True) -> float:
        """Issue a command, or take it back. Returns when that was, in seconds since 1970."""
        async with self._lock:
            if kind is Kind.RESET_CACHE and sum(name[0] is kind for name in self._known) >= MAX_CACHES:
                target = ""
            return await self._write((kind, target), on)

    async def _write(self, name: Name, on: bool) -> float:
        # Later than all before, whatever other machines' clocks have said: a reset must change something.
        newest = max((one.at for known, one in self._known.items() if known[0] is name[0]), default=0.0)
        command = OperatorCommand(on, max(time.time(), newest + 1e-3))
        await self._execute("HSET", self._key, _field(name), msgspec.json.encode(command))
        self._known[name] = command
        return command.at


def outdated(issued: CommandsByName, now: float) -> set[Name]:
    """What nobody needs any more, at a time in seconds since 1970."""
    # Engines may keep blocks for ever, and so it is remembered which of them are not to be used.
    everything = issued.get((Kind.RESET_CACHE, ""), NEVER).at
    old = {
        name
        for name, command in issued.items()
        if (
            command.at < everything
            if name[0] is Kind.RESET_CACHE
            else now - _last_seen(name, issued) > KEPT_SECONDS
        )
    }
    resets = sorted((command.at, name) for name, command in issued.items() if name[0] is Kind.RESET_PREFIX)
    return old | {name for _, name in resets[:-MAX_PREFIXES]}


def _unnoticed(issued: CommandsByName, now: float) -> set[str]:
    """Drained replicas of which it was not noted lately that they are there."""
    return {
        name[1]
        for name, command in issued.items()
        if name[0] is Kind.DRAIN and command.on and now - _last_seen(name, issued) > SEEN_SECONDS
    }


def _last_seen(name: Name, issued: CommandsByName) -> float:
    kind, target = name
    seen = issued.get((Kind.SEEN, target)) if kind is Kind.DRAIN and issued[name].on else None
    return max(issued[name].at, seen.at if seen else 0.0)


def _field(name: Name) -> str:
    return ":".join(name)


def _decoded(fields: Mapping[bytes, bytes]) -> dict[Name, OperatorCommand]:
    """Without what a router of another version may have written."""
    issued = {}
    for field, encoded in fields.items():
        kind, _, target = field.decode(errors="replace").partition(":")
        with suppress(ValueError, msgspec.DecodeError):
            if kind == Kind.RESET_PREFIX and int(target, 16) >> 64:
                continue
            issued[Kind(kind), target] = msgspec.json.decode(encoded, type=OperatorCommand)
    return issued
