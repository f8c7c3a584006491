"""Which client a URL gives, and what is said about a bad one. Nothing connects here."""

from unittest.mock import AsyncMock

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import ClusterDownError, MovedError, RedisClusterException, SlotNotCoveredError

from cluster.errors import StartUpError, StoreUnavailableError
from cluster.store.commands import translated_errors
from cluster.store.store import connect


def options(client):
    """What each connection of a client is made with."""
    return client.connection_pool.connection_kwargs


@pytest.mark.parametrize("url", ["redis://u:p%40ss@host:1234/5", "rediss://u:p%40ss@host:1234/5"])
async def test_one_server(url):
    """User, password, host, port and database come from the URL."""
    client = connect(url, timeout=0.7)
    assert isinstance(client, Redis)
    found = options(client)
    assert (found["username"], found["password"], found["db"]) == ("u", "p@ss", 5)
    assert (found["host"], found["port"], found["socket_timeout"]) == ("host", 1234, 0.7)
    assert (client.connection_pool.connection_class is SSLConnection) == url.startswith("rediss")
    await client.aclose()


async def test_unix_socket():
    """A path instead of an address."""
    client = connect("unix:///run/redis.sock?db=2")
    assert client.connection_pool.connection_class is UnixDomainSocketConnection
    assert (options(client)["path"], options(client)["db"]) == ("/run/redis.sock", 2)
    await client.aclose()


async def test_sentinels():
    """User, password and database are those of Redis, and not shown to the Sentinels.

    A Sentinel gets a quarter of the time: there are others to ask.
    """
    client = connect("redis+sentinel://u:p@one:1,[::1]:2,three/main/4?sentinel_password=s", timeout=0.8)
    assert isinstance(client, Redis)
    pool = client.connection_pool
    assert pool.service_name == "main"
    assert pool.connection_class is SentinelManagedConnection
    found = options(client)
    assert (found["username"], found["password"], found["db"]) == ("u", "p", 4)
    assert found["socket_timeout"] == found["socket_connect_timeout"] == 0.8
    asked = [options(sentinel) for sentinel in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"]) for one in asked] == [("one", 1), ("::1", 2), ("three", 26379)]
    assert {(one["username"], one["password"], one["socket_timeout"]) for one in asked} == {(None, "s", 0.2)}
    await client.aclose()


async def test_sentinels_with_tls():
    """TLS is used to the Sentinels and to Redis, with the options of the URL."""
    client = connect("rediss+sentinel://one:1/main?ssl_cert_reqs=none")
    pool = client.connection_pool
    assert pool.connection_class is SentinelManagedSSLConnection
    [sentinel] = pool.sentinel_manager.sentinels
    assert sentinel.connection_pool.connection_class is SSLConnection
    assert options(sentinel)["ssl_cert_reqs"] == options(client)["ssl_cert_reqs"] == "none"
    await client.aclose()


@pytest.mark.parametrize("tls", [False, True])
async def test_cluster(tls):
    """Every address is a node to begin with; user, password and TLS go for all of them."""
    client = connect(f"{'rediss' if tls else 'redis'}+cluster://u:p@one:1,two:2,three", timeout=0.7)
    assert isinstance(client, RedisCluster)
    assert [node.name for node in client.startup_nodes] == ["one:1", "two:2", "three:6379"]
    for node in client.startup_nodes:
        found = node.connection_kwargs
        assert (found["username"], found["password"], found["socket_timeout"]) == ("u", "p", 0.7)
        assert (node.connection_class is SSLConnection) == tls
    await client.aclose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", "schemes"),
        ("http://host", "schemes"),
        ("redis://host:port/0", "[Pp]ort"),
        ("redis+cluster://", "host is missing"),
        ("redis+cluster://one:1,,two:2", "host is missing"),
        ("redis+cluster://one:1/3", "no databases"),
        ("redis+cluster://one:many", "[Pp]ort"),
        ("http+cluster://one:1", "schemes"),
        ("redis+sentinel://one:1", "name of the service"),
        ("redis+sentinel://one:1/main/first", "'first' is no number"),
        ("redis+sentinel://:secret@/main", "host is missing"),
        ("redis+other://one:1", "schemes"),
        ("redis://:secret/part@one:1", "percent-encoded"),
        ("redis+cluster://:secret/part@one:1", "."),
        ("redis+sentinel://one/a/secret@b", "percent-encoded"),
        ("redis://:12#secret@one:1", "percent-encoded"),
        ("redis://:12?secret@one:1", "percent-encoded"),
        ("redis://:12/secret@one:1", "percent-encoded"),
    ],
)
def test_bad_url(url, reason):
    """The error says what is wrong and how URLs look, and holds no password."""
    with pytest.raises(StartUpError, match=reason) as caught:
        connect(url)
    for form in ("redis://", "unix://", "redis+sentinel://", "redis+cluster://"):
        assert form in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ClusterDownError("CLUSTERDOWN The cluster is down"),
        MovedError("1234 127.0.0.1:6379"),
        SlotNotCoveredError("slot"),
        RedisClusterException("no node can be reached"),
        ConnectionResetError("gone"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_every_kind_become_ours(error):
    """Also those of a cluster, which are no `RedisError`."""
    with pytest.raises(StoreUnavailableError, match=r"Redis: \w+"), translated_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"),  # uvloop
        AttributeError("'NoneType' object has no attribute 'writelines'"),  # closed by another caller
        TypeError("'NoneType' object is not callable"),  # asyncio of Python 3.12
    ],
    ids=lambda error: type(error).__name__,
)
async def test_write_to_a_closed_connection_is_an_error_of_the_connection(error, monkeypatch):
    """These errors have no class of their own; anywhere else they are a mistake, and stay one."""
    connection = Connection()
    monkeypatch.setattr(Connection, "is_connected", True)
    monkeypatch.setattr(connection, "_send_packed_command", AsyncMock(side_effect=error))
    with pytest.raises(StoreUnavailableError), translated_errors():
        await connection.send_packed_command(b"PING", check_health=False)
    with pytest.raises(type(error)), translated_errors():
        raise error.with_traceback(None)
