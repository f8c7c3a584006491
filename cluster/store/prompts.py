"""Prompts that requests name instead of sending them: versions that never change, and the active one.

One hash in Redis holds everything. It is read again only when its revision has changed, and the first router
that remembers what Redis has lost writes it again.
"""

import time
from collections.abc import Mapping
from secrets import token_hex
from typing import Annotated, Any

import msgspec

from cluster.errors import StoreConflictError
from cluster.protocol.wire import Keys
from cluster.store.commands import Commands, RedisClient

MAX_VERSIONS = 1_000
"""Of all prompts together."""
REVISION = b"revision"

Message = dict[str, Any]


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One version of a prompt."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=256)]
    """Come first and never change, so that their KV blocks are shared."""
    tools: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=1_024)] = []
    variable_messages: Annotated[list[Message], msgspec.Meta(max_length=256)] = []
    """Come behind the fixed ones, with ``{{name}}`` where a request's variables are put."""
    segments: dict[str, Annotated[list[str], msgspec.Meta(min_length=1, max_length=64)]] = {}
    """Variables of the fixed part, such as a language, with all their values: each makes another prefix."""
    copies: Annotated[int, msgspec.Meta(ge=1, le=1_024)] = 1
    """Replicas that are to hold it while it is in use."""
    cache_seconds: Annotated[int, msgspec.Meta(ge=0)] = 0
    """After so long nothing that was computed for it is used any more; 0 is no limit of its own."""


class Activation(msgspec.Struct, frozen=True):
    """Which version of a prompt requests get that name none."""

    version: int
    previous: int = 0
    """The one that other conversations get, and those that began with it; 0 is none."""
    share: float = 1.0
    """Part of new conversations that gets ``version``."""
    at: float = 0.0
    """Seconds since 1970."""


class Prompts(msgspec.Struct, frozen=True):
    """All prompts of a deployment."""

    revision: bytes = b""
    templates: Mapping[tuple[str, int], Template] = {}
    active: Mapping[str, Activation] = {}

    def versions(self, prompt_id: str) -> list[int]:
        """Of one prompt, in order."""
        return sorted(version for name, version in self.templates if name == prompt_id)


class PromptStore:
    """The prompts in Redis. Every method raises `StoreUnavailableError` when Redis does not answer."""

    def __init__(self, redis: RedisClient, keys: Keys) -> None:
        self._execute = Commands.of(redis).execute
        self._key = f"{keys.prefix}:prompts"
        self.known = Prompts()

    async def read(self) -> Prompts:
        """All prompts as they are now."""
        revision = await self._execute("HGET", self._key, REVISION)
        if revision is None and self.known.revision:  # Redis has lost its data
            await self._write(_fields(self.known))
        elif revision is not None and revision != self.known.revision:
            self.known = _decoded(await self._execute("HGETALL", self._key))
        return self.known

    async def push(self, prompt_id: str, template: Template, version: int | None = None) -> int:
        """Add a version, or find the one that is the same. Returns its number.

        Raises `StoreConflictError` for a number that stands for another one, and for too many.
        """
        known = await self.read()
        same = [one for one in known.versions(prompt_id) if known.templates[prompt_id, one] == template]
        if same and version in (None, same[-1]):
            return same[-1]
        if version is None:
            version = max(known.versions(prompt_id), default=0) + 1
        if len(known.templates) >= MAX_VERSIONS:
            raise StoreConflictError(f"there are {MAX_VERSIONS} versions of prompts: retire some")
        encoded = msgspec.json.encode(template)
        field = f"{prompt_id}@{version}"
        await self._execute("HSETNX", self._key, field, encoded)
        if msgspec.json.decode(await self._execute("HGET", self._key, field), type=Template) != template:
            raise StoreConflictError(f"{field} is another prompt, and versions do not change")
        await self._write({})
        return version

    async def activate(self, prompt_id: str, version: int, share: float) -> None:
        """Give this version to new conversations, or to a share of them. Raises `StoreConflictError` when
        there is none.
        """
        known = await self.read()
        if (prompt_id, version) not in known.templates:
            raise StoreConflictError(f"there is no {prompt_id}@{version}")
        now = known.active.get(prompt_id, Activation(0))
        previous = now.previous if now.version == version else now.version
        activation = Activation(version, previous, share if previous else 1.0, time.time())
        await self._write({prompt_id: msgspec.json.encode(activation)})

    async def retire(self, prompt_id: str, version: int) -> None:
        """Remove a version that is not active. Raises `StoreConflictError` for another one."""
        known = await self.read()
        activation = known.active.get(prompt_id, Activation(0))
        if (prompt_id, version) not in known.templates or version == activation.version:
            raise StoreConflictError(f"{prompt_id}@{version} is active, or there is none")
        await self._execute("HDEL", self._key, f"{prompt_id}@{version}")
        left = {}
        if version == activation.previous:
            left[prompt_id] = msgspec.json.encode(Activation(activation.version, at=activation.at))
        await self._write(left)

    async def _write(self, fields: Mapping[str, bytes]) -> None:
        pairs = [part for pair in fields.items() for part in pair]
        await self._execute("HSET", self._key, *pairs, REVISION, token_hex(8))
        self.known = _decoded(await self._execute("HGETALL", self._key))


def _fields(prompts: Prompts) -> dict[str, bytes]:
    fields = {name: msgspec.json.encode(one) for name, one in prompts.active.items()}
    for (name, version), template in prompts.templates.items():
        fields[f"{name}@{version}"] = msgspec.json.encode(template)
    return fields


def _decoded(fields: Mapping[bytes, bytes]) -> Prompts:
    templates, active = {}, {}
    for field, encoded in fields.items():
        name, is_version, version = field.decode().partition("@")
        if is_version:
            templates[name, int(version)] = msgspec.json.decode(encoded, type=Template)
        elif field != REVISION:
            active[name] = msgspec.json.decode(encoded, type=Activation)
    return Prompts(fields.get(REVISION, b""), templates, active)
