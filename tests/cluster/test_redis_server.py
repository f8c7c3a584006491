"""Which Redis is used, what is said about it, and that a Redis started here ends with us."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from cluster.errors import SequenceGapError, StartUpError
from cluster.protocol.wire import Keys, Lease, Load, ReplicaState
from cluster.serve import redis_server
from cluster.serve.redis_server import redis_for
from cluster.settings import masked
from cluster.store.commands import SCRIPTS, Script
from cluster.store.ownership import OwnershipWriter
from cluster.store.store import connect

needs_redis = pytest.mark.skipif(
    not any(map(shutil.which, redis_server.SERVER_PROGRAMS)), reason="no Redis server on the PATH"
)


@pytest.fixture
def no_server(monkeypatch):
    """A machine without any Redis."""
    monkeypatch.setattr(redis_server.shutil, "which", lambda name: None)


@pytest.fixture(params=["embedded", pytest.param("program", marks=needs_redis)])
def url(request, tmp_path, monkeypatch):
    """Both kinds of server that can be started here must behave alike."""
    if request.param == "embedded":
        monkeypatch.setattr(redis_server.shutil, "which", lambda name: None)
    with redis_for(None, tmp_path) as choice:
        yield choice.url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@host:1/0", "redis://:***@host:1/0"),
        ("rediss://me:sec@ret/@host/0?ssl_cert_reqs=none", "rediss://me:***@host/0?ssl_cert_reqs=none"),
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=***&db=1"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock?password=***"),
    ],
)
def test_passwords_are_masked(url, shown):
    """URLs are logged and displayed; their passwords are not."""
    assert masked(url) == shown


def test_a_given_url_that_does_not_answer_is_an_error(tmp_path):
    """Nobody who names a Redis wants another one; the message has the URL, without its password."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"redis://:secret@127.0.0.1:{port}/0"
    with pytest.raises(StartUpError, match="does not answer") as caught, redis_for(url, tmp_path):
        pass
    assert f"redis://:***@127.0.0.1:{port}/0" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_silent_server_does_not_hang_the_start(tmp_path, monkeypatch):
    """Something listens, but it is no Redis."""
    monkeypatch.setattr(redis_server, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with pytest.raises(StartUpError, match="does not answer"), redis_for(url, tmp_path):
            pass


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost:6379", "redis://host:port/0"])
def test_a_malformed_url_is_named(tmp_path, url):
    """The message says what a URL must look like."""
    with pytest.raises(StartUpError, match="bad Redis URL: "), redis_for(url, tmp_path):
        pass


@pytest.mark.integration
def test_a_given_url_that_answers_is_used(url, tmp_path):
    """And it is left running."""
    with redis_for(url, tmp_path / "unused") as choice:
        assert choice.url == url
        assert choice.origin.startswith("given")
    with Redis.from_url(url) as client:
        assert client.ping()
    assert not (tmp_path / "unused").exists()


@needs_redis
@pytest.mark.integration
def test_a_wrong_password_is_told_apart(tmp_path):
    """A Redis that answers, but not to us."""
    with redis_for(None, tmp_path) as choice, Redis.from_url(choice.url) as admin:
        admin.config_set("requirepass", "right")
        wrong = choice.url.replace("redis://", "redis://:wrong@")
        with pytest.raises(StartUpError, match="refuses the user") as caught, redis_for(wrong, tmp_path):
            pass
        assert "wrong@" not in str(caught.value)
        with (
            pytest.raises(StartUpError, match="refuses the user or password"),
            redis_for(choice.url, tmp_path),
        ):
            pass


@needs_redis
@pytest.mark.integration
def test_an_old_redis_is_refused(tmp_path, monkeypatch):
    """The message has both versions."""
    with redis_for(None, tmp_path) as choice:
        monkeypatch.setattr(redis_server, "OLDEST_MAJOR_VERSION", 99)
        with (
            pytest.raises(StartUpError, match=r"is version \d.*; 99 or newer"),
            redis_for(choice.url, tmp_path),
        ):
            pass


@needs_redis
@pytest.mark.integration
def test_a_server_on_the_path_is_started_and_stopped(tmp_path):
    """On loopback, without persistence, and without anything left behind."""
    with redis_for(None, tmp_path) as choice, Redis.from_url(choice.url, decode_responses=True) as client:
        assert "started here" in choice.origin
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendonly")["appendonly"] == "no"
        pid = client.info("server")["process_id"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_a_server_that_cannot_start_is_replaced_by_the_embedded_one(tmp_path, monkeypatch):
    """And what it said is not lost."""
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho no such option; exit 1\n")
    broken.chmod(0o755)
    which = {"redis-server": str(broken)}.get
    monkeypatch.setattr(redis_server.shutil, "which", which)
    with redis_for(None, tmp_path) as choice, Redis.from_url(choice.url) as client:
        assert client.ping()
        assert choice.origin.startswith("embedded")
        assert "no such option" in choice.origin


def test_when_nothing_starts_the_error_has_every_reason(tmp_path, no_server, monkeypatch):
    """The last resort failed: fakeredis is not installed, say."""
    monkeypatch.setattr(redis_server.sys, "executable", "/no/such/python")
    monkeypatch.setattr(
        redis_server, "bound_command", lambda command: ["sh", "-c", "echo no fakeredis; exit 1"]
    )
    with (
        pytest.raises(StartUpError, match=r"(?s)no Redis can be started.*no fakeredis"),
        redis_for(None, tmp_path),
    ):
        pass


@pytest.mark.integration
@pytest.mark.parametrize("hide", ["0", pytest.param("1", marks=needs_redis)])
def test_the_server_ends_when_its_owner_is_killed(tmp_path, hide):
    """After kill -9 of the owner its Redis is gone too."""
    code = (
        "import pathlib, sys, time; from cluster.serve import redis_server\n"
        "if sys.argv[2] == '1': redis_server.shutil.which = lambda name: None\n"
        "with redis_server.redis_for(None, pathlib.Path(sys.argv[1])) as choice:\n"
        "    print(choice.url, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), hide]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}
    ) as owner:
        port = int(owner.stdout.readline().rpartition(":")[2].split("/")[0])
        socket.create_connection(("127.0.0.1", port)).close()
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    pytest.fail("the server has outlived its owner")


OPENING = ["lease", 5000, "{t}owned:", "{t}log:", 0, "memberships", "announcement"]
"""Arguments of the script that opens an epoch."""


@pytest.mark.integration
class TestWhatWeNeedOfRedis:
    """Everything that Warmroute asks of a Redis, on both kinds of server."""

    async def test_scripts_load_on_first_use(self, url):
        """EVALSHA fails with NOSCRIPT, and the same connection goes on."""
        async with connect(url) as redis:
            with pytest.raises(NoScriptError):
                await redis.evalsha("0" * 40, 0)
            opened = redis.register_script((SCRIPTS / "open.lua").read_text())
            epoch = int(await opened(keys=["{t}lease", "{t}farewell"], args=OPENING))
            assert abs(epoch / 1000 - time.time()) < 60, "the epoch comes from the server's TIME"
            again = int(await opened(keys=["{t}lease", "{t}farewell"], args=OPENING))
            assert again > epoch

    async def test_a_batch_of_binary_keys_arrives(self, url):
        """Five thousand 8-byte keys in one call, a message for subscribers, an entry in the log."""
        packed = b"".join(number.to_bytes(8, "big") for number in range(5000))
        batch = bytes(range(256)) * 400
        async with connect(url) as redis, redis.pubsub() as subscriber:
            await subscriber.subscribe("batches")
            opened = redis.register_script((SCRIPTS / "open.lua").read_text())
            publish = redis.register_script((SCRIPTS / "publish.lua").read_text())
            epoch = await opened(keys=["{t}lease", "{t}farewell"], args=OPENING)
            keys = ["{t}lease", "{t}owned", "{t}log"]
            args = [epoch, 1, 5000, 100, "batches", batch, 0, packed, b""]
            assert await publish(keys=keys, args=args) == b"ok"
            assert await publish(keys=keys, args=args) == b"repeated"
            assert await publish(keys=keys, args=[epoch, 9, *args[2:]]) == b"gap"
            assert await publish(keys=keys, args=[int(epoch) - 1, 2, *args[2:]]) == b"fenced"

            async with asyncio.timeout(5):
                message = None
                while message is None:
                    message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=1.0)
            assert message["data"] == batch
            assert await redis.xrange("{t}log", "(0-0") == [(b"1-0", {b"batch": batch})]
            assert {key async for key in redis.sscan_iter("{t}owned", count=500)} == {
                packed[start : start + 8] for start in range(0, len(packed), 8)
            }
            assert 0 < await redis.pttl("{t}owned") <= 5000

    async def test_an_incarnation_lives_as_it_should(self, url):
        """All scripts run: open, publish, renew, notice damage, read, close."""
        keys, lease = Keys("life"), Lease(replica="r", url="", state=ReplicaState.READY, model="m")
        async with connect(url) as redis:
            writer = OwnershipWriter(redis, keys, "r", 5.0, 100)
            await writer.open(lease, range(6000))
            await writer.publish([7000], range(6000))
            await writer.heartbeat(lease, Load(), changed=True)
            view = await Script(redis, "view")([keys.lease("r")], [keys.owned("r", 0)[:-1]])
            assert view[:2] == [str(writer.epoch).encode(), b"3"]
            assert view[3] == (7000).to_bytes(8, "big")
            await redis.delete(keys.owned("r", writer.epoch))
            with pytest.raises(SequenceGapError):
                await writer.heartbeat(lease, Load())
            await writer.close()
            assert await Script(redis, "view")([keys.lease("r")], [keys.owned("r", 0)[:-1]]) is None

    async def test_streams_take_explicit_ids_once(self, url):
        """The sequence number is the id: one that is not newer is refused."""
        async with connect(url) as redis:
            assert await redis.xadd("s", {"a": b"\r\n\x00\xff"}, id="7-0") == b"7-0"
            with pytest.raises(ResponseError, match="equal or smaller"):
                await redis.xadd("s", {"a": b""}, id="7-0")
            assert await redis.xrange("s") == [(b"7-0", {b"a": b"\r\n\x00\xff"})]

    async def test_keys_expire(self, url):
        """Leases and bookings end by themselves."""
        async with connect(url) as redis:
            await redis.zadd("z", {"a": 1.5, "b": 2})
            await redis.hset("h", mapping={"a": "1"})
            await redis.set("k", b"\x00", px=100)
            await redis.pexpire("z", 100)
            await redis.pexpire("h", 100)
            assert await redis.zrangebyscore("z", 1, 1.9, withscores=True) in ([(b"a", 1.5)], [[b"a", 1.5]])
            await asyncio.sleep(0.2)
            assert await redis.exists("z", "h", "k") == 0

    async def test_pipelines_and_large_values_pass(self, url):
        """Many commands in one write, transactions, and megabytes in both directions."""
        async with connect(url) as redis:
            pipeline = redis.pipeline(transaction=True)
            for number in range(300):
                pipeline.set(f"p{number}", number)
            pipeline.mget("p0", "p299", "none")
            assert (await pipeline.execute())[-1] == [b"0", b"299", None]
            large = os.urandom(4 << 20)
            await redis.set("large", large)
            assert await redis.get("large") == large

    async def test_messages_reach_every_subscriber_soon(self, url):
        """Load gossip depends on it; the median is well below a heartbeat."""
        async with connect(url) as redis, connect(url) as other, redis.pubsub() as one, other.pubsub() as two:
            await one.subscribe("load")
            await two.subscribe("load")
            delays = []
            for number in range(20):
                start = time.perf_counter()
                await redis.publish("load", number)
                for subscriber in (one, two):
                    async with asyncio.timeout(5):
                        while not await subscriber.get_message(ignore_subscribe_messages=True, timeout=1.0):
                            pass
                delays.append(time.perf_counter() - start)
            assert sorted(delays)[10] < 0.1
