"""What can happen to Redis, and what routers must say of it. A fault holds while its context is open."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import NamedTuple

from tests.chaos.proxy import PASS, Behaviour, Link, Mode
from tests.redis_process import RedisProcess


@asynccontextmanager
async def configured(redis: RedisProcess, _: Link, name: str, value: str, usual: str) -> AsyncIterator[None]:
    """A setting of it is another one."""
    redis.client("CONFIG", "SET", name, value)
    yield
    redis.client("CONFIG", "SET", name, usual)


@asynccontextmanager
async def full(redis: RedisProcess, link: Link) -> AsyncIterator[None]:
    """It has no memory left, and may evict nothing."""
    redis.client("CONFIG", "SET", "maxmemory-policy", "noeviction")
    async with configured(redis, link, "maxmemory", "1mb", "0"):
        yield


@asynccontextmanager
async def read_only(redis: RedisProcess, _: Link) -> AsyncIterator[None]:
    """It has become a replica of a primary that is not there."""
    redis.client("REPLICAOF", "127.0.0.1", "1")
    yield
    redis.client("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def linked(_: RedisProcess, link: Link, behaviour: Behaviour) -> AsyncIterator[None]:
    """The network between it and everybody is bad."""
    link.behave(behaviour)
    yield
    link.behave(PASS)


@asynccontextmanager
async def restarted(redis: RedisProcess, _: Link) -> AsyncIterator[None]:
    """It is away, and comes back empty."""
    redis.stop()
    yield
    await asyncio.to_thread(redis.start)


@asynccontextmanager
async def forbidden(redis: RedisProcess, _: Link, *rules: str) -> AsyncIterator[None]:
    """Its operators have changed what its users may do."""
    redis.client("ACL", "SETUSER", "default", *rules)
    yield
    redis.client("ACL", "SETUSER", "default", "allcommands", "allchannels", "allkeys")


class RedisFault(NamedTuple):
    """One of them."""

    begin: Callable[[RedisProcess, Link], AbstractAsyncContextManager[None]]
    words: str
    """Said in ``/healthz``."""
    kind: str
    """Of degradation, in the metrics."""


def _lonely(redis: RedisProcess, link: Link) -> AbstractAsyncContextManager[None]:
    """It has lost the replicas without which it takes no writes."""
    return configured(redis, link, "min-replicas-to-write", "1", "0")


def _behaves(behaviour: Behaviour) -> Callable[[RedisProcess, Link], AbstractAsyncContextManager[None]]:
    return partial(linked, behaviour=behaviour)


def _forbids(*rules: str) -> Callable[[RedisProcess, Link], AbstractAsyncContextManager[None]]:
    return lambda redis, link: forbidden(redis, link, *rules)


FAULTS = {
    "full": RedisFault(full, "OOM", "redis_refuses"),
    "read-only": RedisFault(read_only, "READONLY", "redis_refuses"),
    "without replicas": RedisFault(_lonely, "NOREPLICAS", "redis_refuses"),
    "slow": RedisFault(_behaves(Behaviour(Mode.DELAY, 0.25)), "Redis is slow", "redis_slow"),
    "restarted empty": RedisFault(restarted, "Redis does not answer", "redis"),
    "cut off": RedisFault(_behaves(Behaviour(Mode.CUT)), "Redis does not answer", "redis"),
    "silent": RedisFault(_behaves(Behaviour(Mode.BLACKHOLE)), "Redis is slow", "redis_slow"),
    "no writes allowed": RedisFault(_forbids("-@write"), "NOPERM", "redis_refuses"),
    "nothing allowed": RedisFault(_forbids("-@all", "+acl"), "NOPERM", "redis_refuses"),
    "no channels allowed": RedisFault(_forbids("resetchannels"), "NOPERM", "redis_refuses"),
}
