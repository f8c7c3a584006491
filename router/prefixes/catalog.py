"""The prompts that requests may name, as one router knows them: ``prompt: {id, version, variables}``."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import xxhash

from cluster.errors import StoreUnavailableError
from cluster.store.prompts import Activation, PromptStore, Template
from router.errors import InvalidRequestError, quoted
from router.prefixes.templates import fixed_part, segments_of, variable_part
from router.requests.schema import RESPONSES_PATH
from router.tenants.keys import Tenant

POLL_SECONDS = 0.5
MAX_CONVERSATIONS = 100_000
"""Conversations whose version is remembered; those not continued for longest get the active one."""
MAX_USES = 256
"""Prefixes in use that are remembered; those not used for longest are forgotten."""


class Use(NamedTuple):
    """A prefix that a tenant's requests have: what is to be kept warm."""

    prompt_id: str
    version: int
    segments: tuple[tuple[str, str], ...]
    scope: str
    """The tenant's."""
    model: str

    @property
    def name(self) -> str:
        """Prompt and version, as answers name them."""
        return f"{self.prompt_id}@{self.version}"


class PromptCatalog:
    """Puts prompts in place of their names. `run` follows what is in Redis."""

    def __init__(self, store: PromptStore) -> None:
        self.store = store
        self._conversations: OrderedDict[int, int] = OrderedDict()
        self.uses: OrderedDict[Use, tuple[Tenant, float]] = OrderedDict()
        """Prefixes that requests had lately, by whom, and when last, in monotonic seconds."""

    async def run(self) -> None:
        """Follow the prompts until cancelled."""
        while True:
            with suppress(StoreUnavailableError):  # the follower logs it
                await self.store.read()
            await asyncio.sleep(POLL_SECONDS)

    def expand(self, path: str, tenant: Tenant, raw: bytes) -> tuple[bytes, Tenant, str]:
        """A body with its prompt in place of the name, by whose rights it goes on, and the version's name.

        Bodies that name none come back as they are. Raises `InvalidRequestError`.
        """
        try:
            fields = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return raw, tenant, ""  # parsing it says what is wrong
        named = fields.get("prompt") if isinstance(fields, dict) else None
        if not isinstance(named, dict):
            return raw, tenant, ""
        list_name = "input" if path == RESPONSES_PATH else "messages"
        own = fields.get(list_name) or []
        own = [{"role": "user", "content": own}] if isinstance(own, str) else own
        variables = named.get("variables", {})
        if not isinstance(own, list) or not isinstance(variables, dict):
            raise InvalidRequestError(
                f"{list_name!r} must be a list, and 'prompt.variables' an object.", "prompt"
            )
        prompt_id, version, template = self._chosen(named, own, tenant)
        segments = segments_of(template, variables)
        messages, tools = fixed_part(template, segments)
        del fields["prompt"]
        fields[list_name] = [*messages, *variable_part(template, variables), *own]
        if tools:
            fields["tools"] = [*tools, *(fields.get("tools") or [])]
        if template.cache_seconds:
            limit = min(template.cache_seconds, tenant.cache_seconds or template.cache_seconds)
            tenant = msgspec.structs.replace(tenant, cache_seconds=limit)
        use = Use(prompt_id, version, tuple(segments.items()), tenant.scope, str(fields.get("model") or ""))
        self.uses.pop(use, None)  # long bodies come here in threads
        self.uses[use] = tenant, time.monotonic()
        if len(self.uses) > MAX_USES:
            self.uses.popitem(last=False)
        return msgspec.json.encode(fields), tenant, use.name

    def _chosen(self, named: Mapping[str, Any], own: list[Any], tenant: Tenant) -> tuple[str, int, Template]:
        known, prompt_id = self.store.known, named.get("id")
        if not isinstance(prompt_id, str) or not known.versions(prompt_id):
            raise InvalidRequestError(f"There is no prompt {quoted(str(prompt_id))}.", "prompt.id")
        given = named.get("version")
        if given is None and prompt_id not in known.active:
            raise InvalidRequestError(
                f"No version of {quoted(prompt_id)} is active: name one.", "prompt.version"
            )
        if given is None:
            version = self._version_for(prompt_id, known.active[prompt_id], own, tenant)
        else:
            version = int(given) if str(given).isdecimal() else 0
        template = known.templates.get((prompt_id, version))
        if template is None:
            there = ", ".join(map(str, known.versions(prompt_id)))
            raise InvalidRequestError(
                f"The prompt {quoted(prompt_id)} has no version {quoted(str(given))}, but {there}.",
                "prompt.version",
            )
        return prompt_id, version, template

    def _version_for(self, prompt_id: str, now: Activation, own: list[Any], tenant: Tenant) -> int:
        """A conversation stays with the version that it began with, as long as that is there."""
        first = next((one for one in own if isinstance(one, dict) and one.get("role") == "user"), None)
        key = xxhash.xxh3_64_intdigest(f"{tenant.scope}\0{prompt_id}\0".encode() + msgspec.json.encode(first))
        begun_with = self._conversations.get(key)
        if begun_with is None or (prompt_id, begun_with) not in self.store.known.templates:
            begun_with = now.version if key < now.share * 2.0**64 or not now.previous else now.previous
        self._conversations.pop(key, None)
        self._conversations[key] = begun_with
        if len(self._conversations) > MAX_CONVERSATIONS:
            self._conversations.popitem(last=False)
        return begun_with
