"""Real Redis servers for tests: one alone, a cluster, and a primary that Sentinels watch."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from cluster.process.bound_child import bound_command

SLOTS = 16_384
SERVICE = "primary"
_given = set()


class RedisProcess:
    """A `redis-server` without persistence on a port of its own, which can be stopped and started again.

    ``options`` are written with underscores: ``cluster_enabled="yes"``.
    """

    def __init__(self, directory, **options):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "no",
            "dir": directory,
            "repl-diskless-sync-delay": 0,
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        self.process = None

    def arguments(self):
        """The command line."""
        return ["redis-server"] + [
            text for name, value in self._options.items() for text in (f"--{name}", str(value))
        ]

    def start(self):
        """Start empty, and wait until it answers."""

        def answers():
            # It ends at once when somebody's outgoing connection has the port just then.
            if self.process is None or self.process.poll() is not None:
                command = bound_command(self.arguments(), signal.SIGKILL)
                self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            return self.client("PING")

        _wait(answers, f"redis-server on port {self.port} answers", seconds=10)

    def client(self, *command):
        """The answer to one command, on a connection of its own."""
        with Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=2.0) as client:
            return client.execute_command(*command)

    def info(self, name):
        """One field of INFO."""
        return self.client("INFO")[name]

    def is_primary(self):
        """Whether it takes writes; in the moment of a promotion Sentinel closes connections."""
        try:
            return self.info("role") == "master"
        except RedisError:
            return False

    def stop(self):
        """End the process that `start` began; all data is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def hang(self):
        """Keep the process and its connections, but answer nothing any more."""
        os.kill(self.process.pid, signal.SIGSTOP)


class ClusterNode(RedisProcess):
    """A node of a Redis Cluster that does not know the others yet."""

    def __init__(self, directory):
        self.bus_port = free_port()
        super().__init__(
            directory,
            cluster_enabled="yes",
            cluster_port=self.bus_port,
            cluster_node_timeout=1000,
            cluster_replica_validity_factor=0,
        )


class SentinelProcess(RedisProcess):
    """A Sentinel that watches ``primary`` and fails over after half a second."""

    def __init__(self, directory, primary, quorum):
        super().__init__(directory)
        self._file = directory / f"sentinel-{self.port}.conf"
        self._file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
        )

    def arguments(self):
        """The command line."""
        return ["redis-server", str(self._file), "--sentinel"]

    def knows(self, replicas, sentinels):
        """Whether it has found all that it needs for a failover."""
        state = self.client("SENTINEL", "MASTER", SERVICE)
        return (int(state[b"num-slaves"]), int(state[b"num-other-sentinels"])) == (replicas, sentinels - 1)


def free_port():
    """A port that the system gives, that nobody uses, and that was not given here before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


@contextmanager
def running_redis(directory, **options):
    """A Redis for as long as the context is open; the test is skipped where there is no `redis-server`."""
    with _running([RedisProcess(directory, **options)]) as [server]:
        yield server


@contextmanager
def running_cluster(directory, replicas=False):
    """The nodes of a Redis Cluster of three primaries, and then three replicas of these if asked for."""
    nodes = []
    for number in range(6 if replicas else 3):
        folder = directory / f"node-{number}"
        folder.mkdir()
        nodes.append(ClusterNode(folder))
    with _running(nodes):
        primaries = nodes[:3]
        for number, node in enumerate(nodes):
            node.client("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if node in primaries:
                node.client("CLUSTER", "ADDSLOTSRANGE", number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1)
            node.client("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].bus_port)
        for node in nodes:
            _wait(lambda node=node: _known_nodes(node) == len(nodes), "all nodes know each other")
        for primary, replica in zip(primaries, nodes[3:], strict=False):
            replica.client("CLUSTER", "REPLICATE", primary.client("CLUSTER", "MYID").decode())
        for replica in nodes[3:]:
            _wait(lambda node=replica: node.info("master_link_status") == "up", "a replica follows")
        for node in nodes:
            _wait(lambda node=node: _cluster_info(node)["cluster_state"] == "ok", "the cluster is up")
        yield nodes


def cluster_url(nodes):
    """The URL of a cluster, with these nodes to begin with."""
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


class Watched:
    """A primary and its replica under Sentinels."""

    def __init__(self, primary, replica, sentinels):
        self.primary, self.replica, self.sentinels = primary, replica, sentinels
        addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        self.url = f"redis+sentinel://{addresses}/{SERVICE}"

    def cut_replication(self):
        """What is written from now on is acknowledged, and lost in a failover."""
        self.replica.client("CONFIG", "SET", "masteruser", "nobody")
        self.replica.client("CONFIG", "SET", "masterauth", "wrong")
        self.primary.client("CLIENT", "KILL", "TYPE", "replica")
        _wait(lambda: self.replica.info("master_link_status") == "down", "replication is cut")


@contextmanager
def running_sentinels(directory):
    """A primary and a replica that three Sentinels watch."""
    primary = RedisProcess(directory)
    with _running([primary]):
        replica = RedisProcess(directory, replicaof=f"127.0.0.1 {primary.port}")
        sentinels = [SentinelProcess(directory, primary, quorum=2) for _ in range(3)]
        with _running([replica, *sentinels]):
            _wait(lambda: replica.info("master_link_status") == "up", "the replica follows")
            for sentinel in sentinels:
                _wait(lambda one=sentinel: one.knows(1, 3), "the Sentinels know everybody")
            yield Watched(primary, replica, sentinels)


@contextmanager
def _running(servers):
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on the PATH")
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop()


def _cluster_info(node):
    answer = node.client("CLUSTER", "INFO")
    return answer if isinstance(answer, dict) else dict(x.split(":") for x in answer.decode().split())


def _known_nodes(node):
    return int(_cluster_info(node)["cluster_known_nodes"])


def _wait(condition, name, seconds=20.0):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (RedisError, OSError):
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds} s: {name}")
        time.sleep(0.02)
