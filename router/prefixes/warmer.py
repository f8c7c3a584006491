"""Keeps the prompts that tenants use on as many replicas as they should be on.

Engines evict what has not been used for longest. So a prefix in use is touched before the time after which
it was evicted before, which costs the tokens of its last block; where it has gone, it is computed again. Both
are ordinary requests for one token, sent where nothing waits, and take at most `SHARE` of a replica's time.

One router does it, the one that holds a lease in Redis; that it is lost for some seconds harms nobody.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from cluster.errors import StoreUnavailableError
from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Model, Replica
from cluster.protocol.wire import Keys
from cluster.store.commands import Commands, RedisClient
from cluster.store.prompts import Template
from router.errors import MAX_QUOTED, ApiError, AttemptFailedError
from router.health.readiness import model_of
from router.prefixes.catalog import PromptCatalog, Use
from router.prefixes.templates import fixed_part, segments_of
from router.requests.prompt_threads import PromptThreads
from router.requests.prompts import PreparedPrompt, prepare
from router.requests.schema import CHAT_PATH, Call, parse_chat
from router.requests.tokenizers import Tokenizers
from router.tenants.cache_scopes import CacheScopes
from router.tenants.keys import Tenant
from router.upstream.client import Upstream

LOOK_SECONDS = 0.5
USED_SECONDS = 600.0
"""How long a prefix is kept after its last request."""
SHARE = 0.02
"""Of a replica's time, at most, for all that is kept warm."""
LEASE_SECONDS = 5
TOUCH_SECONDS = (1.0, 20.0)
"""Shortest and longest time between two touches."""
SECONDS_PER_TOKEN = 1e-4
"""Until a replica's pace has been measured."""
ACTIVATION_SECONDS = 60.0
"""How long a new version may take to become warm before it is active all the same."""

JSON = {"Content-Type": "application/json"}

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(slots=True)
class _Kept:
    """What is known of one prefix on one replica. Times are monotonic seconds."""

    touched_at: float = float("-inf")
    lasts: float = 2 * TOUCH_SECONDS[1]
    """How long it has stayed without being used, at least."""


@dataclass(slots=True, eq=False)
class PromptWarmer:
    """Keeps prompts warm. `run` does it until cancelled."""

    catalog: PromptCatalog
    fleet: Fleet
    tokenizers: Tokenizers
    upstream: Upstream
    scopes: CacheScopes
    threads: PromptThreads
    redis: RedisClient
    keys: Keys
    router_id: str
    _kept: dict[tuple[Use, str, int], _Kept] = field(default_factory=dict)
    """By prefix, replica and epoch."""
    _free_at: dict[str, float] = field(default_factory=dict)
    """When each replica may be given something to compute again."""

    async def run(self) -> None:
        """Look after all prefixes in use, while this router is the one that does."""
        lease = f"{self.keys.prefix}:prompt_warmer"
        execute = Commands.of(self.redis).execute
        while True:
            with suppress(StoreUnavailableError):
                taken = await execute("SET", lease, self.router_id, "NX", "EX", LEASE_SECONDS)
                if taken or await execute("GET", lease) == self.router_id.encode():
                    await execute("EXPIRE", lease, LEASE_SECONDS)
                    await self._look_after_all()
            await asyncio.sleep(LOOK_SECONDS)

    async def warm_up(self, prompt_id: str, version: int) -> int:
        """Compute a version for everybody who uses another one of the prompt now, where they have that.
        Returns the number of copies made.
        """
        copies = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(ACTIVATION_SECONDS):
                for use, (tenant, _) in list(self.catalog.uses.items()):
                    if use.prompt_id == prompt_id and use.version != version:
                        copies += await self._follow(use, use._replace(version=version), tenant)
        return copies

    async def prompts_of(self, prompt_id: str, version: int, model: str) -> PreparedPrompt | None:
        """A version's prompt, as somebody without a tenant has it; None where it cannot be computed here."""
        template = self.catalog.store.known.templates[prompt_id, version]
        use = Use(prompt_id, version, tuple(segments_of(template, {}).items()), "", model)
        found = await self._prefix(use, Tenant())
        return found and found[2]

    async def _follow(self, use: Use, new: Use, tenant: Tenant) -> int:
        """Bring a new version to where an old one is, all at once."""
        old, wanted = await self._prefix(use, tenant), await self._prefix(new, tenant)
        if old is None or wanted is None:
            return 0
        model, _, prompt, num_blocks = old
        holders = self._holders(model, prompt, num_blocks, tenant)
        return sum(await asyncio.gather(*(self._send(new, replica, wanted) for replica in holders)))

    async def _look_after_all(self) -> None:
        now = time.monotonic()
        in_use = {use for use, (_, used) in self.catalog.uses.items() if used > now - USED_SECONDS}
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] in in_use}
        for use in in_use:
            tenant, _ = self.catalog.uses[use]
            template = self.catalog.store.known.templates.get((use.prompt_id, use.version))
            if template is not None and (found := await self._prefix(use, tenant)):
                await self._look_after(use, template, tenant, found)

    async def _look_after(self, use: Use, template: Template, tenant: Tenant, found: "_Prefix") -> None:
        """Touch what is there and due, and compute what has gone where there is time."""
        model, _, prompt, num_blocks = found
        holders = self._holders(model, prompt, num_blocks, tenant)
        now, due = time.monotonic(), []
        for replica in holders:
            kept = self._kept.setdefault((use, replica.lease.replica, replica.epoch), _Kept())
            if now > kept.touched_at + min(max(kept.lasts / 2, TOUCH_SECONDS[0]), TOUCH_SECONDS[1]):
                due.append(replica)
        others = [one for one in model.replicas if one not in holders and self._may_take(one, tenant)]
        for replica in others:  # it was there, and has gone though it was touched
            kept = self._kept.get((use, replica.lease.replica, replica.epoch), _Kept())
            if kept.touched_at > now - kept.lasts:
                kept.lasts = now - kept.touched_at
        others.sort(key=lambda one: (self._free_at.get(one.lease.replica, 0.0), one.lease.replica))
        due += others[: max(template.copies - len(holders), 0)]
        ready = [one for one in due if self._free_at.get(one.lease.replica, 0.0) <= now]
        await asyncio.gather(*(self._send(use, replica, found) for replica in ready))

    def _may_take(self, replica: Replica, tenant: Tenant) -> bool:
        """Whether a replica may serve the tenant, and nothing waits there."""
        return (
            replica.takes_requests
            and tenant.admits(replica.lease.labels)
            and replica.failed_until <= time.monotonic()
            and not replica.load.waiting
            and not self.fleet.engine_queue(replica)
        )

    def _holders(
        self, model: Model, prompt: PreparedPrompt, num_blocks: int, tenant: Tenant
    ) -> list[Replica]:
        matched = self.fleet.index.matched_blocks(prompt.keys[:num_blocks])
        return [
            one
            for one in model.replicas
            if matched[one.slot] == num_blocks and one.takes_requests and tenant.admits(one.lease.labels)
        ]

    async def _prefix(self, use: Use, tenant: Tenant) -> "_Prefix | None":
        """The model, a request that has the prefix, its prompt, and how many blocks of it every such request
        has. None where that cannot be said, or nothing is shared.
        """
        template = self.catalog.store.known.templates.get((use.prompt_id, use.version))
        if template is None or tenant.private or tenant.unshared:
            return None
        with suppress(ApiError):
            model = model_of(self.fleet, use.model)
            calls = [self._call(use, model, tenant, template, word) for word in ("Hello", "What")]
            tokenizer = self.tokenizers.for_call(model.name, calls[0], calls[0].conversation_key)
            prompts = [await prepare(call, model, tokenizer, self.threads, "prompts") for call in calls]
            if not all(prompt.exact for prompt in prompts) or model.namespace is None:
                return None
            pairs = zip(prompts[0].keys, prompts[1].keys, strict=False)
            num_blocks = next(
                (n for n, (one, other) in enumerate(pairs) if one != other), len(prompts[0].keys)
            )
            return (model, calls[0], prompts[0], num_blocks) if num_blocks else None
        return None

    def _call(self, use: Use, model: Model, tenant: Tenant, template: Template, word: str) -> Call:
        messages, tools = fixed_part(template, dict(use.segments))
        body: dict[str, Any] = {
            "model": model.name,
            "max_tokens": 1,
            "messages": [*messages, {"role": "user", "content": word}],
        }
        if tools:
            body["tools"] = tools
        call = parse_chat(msgspec.json.encode(body))
        return call.isolated(*self.scopes.of(tenant).of(model.name, call.conversation))

    async def _send(self, use: Use, replica: Replica, found: "_Prefix") -> bool:
        """Let a replica compute a prefix, or touch it. False when that failed."""
        _, call, prompt, _ = found
        cached = int(self.fleet.index.matched_blocks(prompt.keys)[replica.slot]) * replica.lease.block_size
        new_tokens = max(prompt.prompt_tokens - cached, 1)
        seconds = new_tokens * (replica.pace.seconds_per_token or SECONDS_PER_TOKEN)
        self._free_at[replica.lease.replica] = time.monotonic() + seconds / SHARE
        booking = self.fleet.book(replica, prompt.keys, prompt.prompt_tokens, cached, streamed=False)
        succeeded = False
        try:
            reply = await self.upstream.send(replica.lease.url, CHAT_PATH, call.upstream_body(), JSON, False)
            succeeded, refused = reply.status == 200, reply.first
            reply.close()
            if not succeeded:
                raise AttemptFailedError(refused[:MAX_QUOTED].decode(errors="replace"), replica_down=False)
        except AttemptFailedError as error:
            log.warning(
                "prompt_not_warmed", prompt=use.name, replica=replica.lease.replica, reason=str(error)
            )
        finally:
            booking.release(time.monotonic(), succeeded)
        if succeeded:
            kept = self._kept.setdefault((use, replica.lease.replica, replica.epoch), _Kept())
            kept.touched_at = time.monotonic()
            kept.lasts *= 1.05
            if new_tokens > replica.lease.block_size + len(prompt.keys):
                log.info("prompt_warmed", prompt=use.name, replica=replica.lease.replica, tokens=new_tokens)
        return succeeded


_Prefix = tuple[Model, Call, PreparedPrompt, int]
