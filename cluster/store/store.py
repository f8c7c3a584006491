"""The connection to Redis: one server, a primary that Sentinel watches, or a Redis Cluster.

The URL says which, and nobody else needs to know. `open_pubsub` and `cluster.store.commands.Script` hide what
differs.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cluster.errors import StartUpError, StoreUnavailableError
from cluster.process.tasks import cancel_and_wait
from cluster.settings import URL_FORMS, is_loopback
from cluster.store.commands import RedisClient

MAX_CONNECTIONS = 10_000
"""Connections to one server. One process may have hundreds of agents, and redis-py fails beyond 100 calls at
a time."""
NODE_CHECK_SECONDS = 2.0
"""How often the node of a cluster that pub/sub listens to is asked whether it lives."""


def connect(url: str, timeout: float = 2.0) -> RedisClient:
    """A client that gives up on Redis soon instead of hanging. Does not connect yet.

    - ``redis://[user:password@]host:port[/db]``, ``rediss://…`` with TLS, ``unix:///path``: one server.
    - ``redis+sentinel://[user:password@]host:port,host:port/service[/db]``: the primary that these Sentinels
      know under that name; after a failover the client finds the new one. User and password are those of
      Redis; ``?sentinel_username=…&sentinel_password=…`` are those of the Sentinels.
    - ``redis+cluster://[user:password@]host:port,host:port``: a Redis Cluster; some of its nodes are enough.

    ``rediss+sentinel`` and ``rediss+cluster`` use TLS everywhere. Options of redis-py may follow as a query,
    such as ``?ssl_ca_certs=/ca.pem``. Raises `StartUpError` for anything else.

    Each command is tried twice, ``timeout`` seconds at most each time: a connection from the pool may have
    died unnoticed. Where nodes or Sentinels hang, asking the others comes on top.
    """
    limits: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 1),
        "max_connections": MAX_CONNECTIONS,
        "decode_responses": False,
    }
    try:
        parts = urlsplit(url)
        scheme, _, topology = parts.scheme.partition("+")
        if scheme != "unix" and (
            "@" in parts.path or "@" in parts.fragment or "@" in parts.query.split("=")[0]
        ):
            raise ValueError("in user and password, characters like / ? # @ must be percent-encoded")
        if topology == "sentinel":
            return _sentinel_client(scheme, parts, limits)
        if topology == "cluster":
            return _cluster_client(scheme, parts, limits)
        return Redis.from_url(url, **limits)
    except ValueError as error:
        # What is quoted of a URL with a password may be a part of that, where a '/' in it is not encoded.
        reason = re.sub(r"'.*'", "'***'", str(error)) if "@" in url else str(error)
        raise StartUpError(f"bad Redis URL: {reason}. It must be {URL_FORMS}.") from error


def is_local(url: str) -> bool:
    """Whether every server that the URL names is on this machine, so that all that use it are, too."""
    try:
        hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
        return all(is_loopback(urlsplit(f"//{host}").hostname or "localhost") for host in hosts)
    except ValueError:  # `connect` says so
        return True


class _SentinelPool(SentinelConnectionPool):
    """Connections to the primary that Sentinels know; those to the Sentinels are closed with them."""

    async def aclose(self) -> None:
        await super().aclose()
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()


class _Cluster(RedisCluster):
    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        # Without this a client that has not read the slots yet, or has lost them in a failover, sends to a
        # random node, and every fifth redirection closes all connections, also those in use.
        await self.initialize()
        return await super().execute_command(*args, **kwargs)

    async def aclose(self) -> None:
        # redis-py's own closes nothing when an error has told it to read the slots again. It also calls this
        # itself, so connections in use are left alone.
        await super().aclose()
        manager = self.nodes_manager
        for node in (*manager.nodes_cache.values(), *manager.startup_nodes.values()):
            await node.disconnect_free_connections()


def _sentinel_client(scheme: str, parts: SplitResult, limits: dict[str, Any]) -> Redis:
    nodes, options = _nodes(scheme, parts, 26379)
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the name of the service that Sentinel watches is missing")
    if not (database or "0").isdigit():
        raise ValueError(f"{database!r} is no number of a database")
    login = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    impatient = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), limits["socket_timeout"] / 4)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        nodes,
        # Impatient, and without a second try: the next Sentinel is asked instead, and the first one may have
        # been lost together with the primary.
        sentinel_kwargs={**limits, **login, **tls, **impatient, "retry": Retry(NoBackoff(), 0)},
        **{**limits, **options, "db": int(database or 0)},
    )
    client: Redis = sentinel.master_for(service, connection_pool_class=_SentinelPool)
    return client


def _cluster_client(scheme: str, parts: SplitResult, limits: dict[str, Any]) -> RedisCluster:
    nodes, options = _nodes(scheme, parts, 6379)
    if parts.path.strip("/0"):
        raise ValueError("a Redis Cluster has no databases but 0")
    return _Cluster(startup_nodes=[ClusterNode(host, port) for host, port in nodes], **{**limits, **options})


def _nodes(
    scheme: str, parts: SplitResult, default_port: int
) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Host and port of each node, and the client's options that user, password and query give."""
    login, at, hosts = parts.netloc.rpartition("@")
    nodes: list[tuple[str, int]] = []
    options: dict[str, Any] = {}
    for host in hosts.split(","):
        options = dict(parse_url(f"{scheme}://{login}{at}{host}?{parts.query}"))
        if "host" not in options:
            raise ValueError("a host is missing")
        nodes.append((options.pop("host"), options.pop("port", default_port)))
    if options.pop("connection_class", None):
        options["ssl"] = True
    return nodes, options


@asynccontextmanager
async def open_pubsub(redis: RedisClient) -> AsyncIterator[PubSub]:
    """Pub/sub on a connection of its own, which ends with the context.

    In a cluster every node passes on what is published on any of them, so it listens to one that answers.
    When that node dies, reading raises; open another one then.
    """
    if not isinstance(redis, RedisCluster):
        async with redis.pubsub() as pubsub:
            yield pubsub
        return
    async with await _any_node(redis) as node, node.pubsub() as pubsub:
        watch = asyncio.create_task(_disconnect_when_silent(node))
        try:
            yield pubsub
        finally:
            await cancel_and_wait(watch)


async def _any_node(cluster: RedisCluster) -> Redis:
    """A client of one node of the cluster, at random among those that answer."""
    await cluster.initialize()
    nodes = cluster.get_nodes()
    for node in random.sample(nodes, len(nodes)):
        options = {**node.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
        client = Redis.from_pool(ConnectionPool(connection_class=node.connection_class, **options))
        try:
            await client.ping()
        except BaseException as error:
            await client.aclose()
            if not isinstance(error, RedisError | OSError):
                raise
        else:
            return client
    raise StoreUnavailableError("Redis: no node of the cluster answers")


async def _disconnect_when_silent(node: Redis) -> None:
    """A node that hangs looks to pub/sub like one that has nothing to say: cut its connections.

    With one server that shows in other commands; in a cluster these go to other nodes.
    """
    try:
        while True:
            await asyncio.sleep(NODE_CHECK_SECONDS)
            await node.ping()
    except (RedisError, OSError):
        await node.connection_pool.disconnect()


async def together(*commands: Awaitable[Any]) -> list[Any]:
    """Run several commands at once: where Redis is slow, one after the other would take too long.

    Raises the first error, after all have ended.
    """
    answers = await asyncio.gather(*commands, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers
