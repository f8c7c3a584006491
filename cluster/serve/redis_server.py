"""Which Redis this system uses: the one it is given, else one that it starts for itself.

In this order: the URL from the settings; ``redis-server`` or ``valkey-server`` from the PATH, on a free
loopback port and without persistence; an embedded server (fakeredis, with Lua). What is started here is a
process of its own that ends with this one, also after ``kill -9``.
"""

import asyncio
import os
import select
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError
from redis.retry import Retry

from cluster.errors import StartUpError, StoreUnavailableError
from cluster.process.bound_child import bound_command, python_path
from cluster.settings import masked
from cluster.store.commands import translated_errors
from cluster.store.store import connect

SERVER_PROGRAMS = ("redis-server", "valkey-server")
OLDEST_MAJOR_VERSION = 7
HOST = "127.0.0.1"

ANSWER_SECONDS = 5.0
START_SECONDS = 30.0
STOP_SECONDS = 5.0
PORT_ATTEMPTS = 3
PUSH_POLL_SECONDS = 0.01
"""How long a pub/sub message of the embedded server may wait; costs 0.4% of a core per connection."""


@dataclass(frozen=True, slots=True)
class RedisChoice:
    """A Redis that answers, and where it came from in words for display."""

    url: str
    origin: str


@contextmanager
def redis_for(settings_url: str | None, directory: Path) -> Iterator[RedisChoice]:
    """A Redis for as long as the context is open; one that was started here ends with it.

    ``directory`` holds the working folder of a server that is started. Enter the context in a thread that
    lives at least as long (see `cluster.process.bound_child`). Raises `StartUpError` when the given URL
    does not answer, or when nothing can be started.
    """
    if settings_url:
        yield RedisChoice(settings_url, f"given, version {_check(settings_url)}")
        return
    with ExitStack() as stack:
        yield _start_one(stack, directory)


def _start_one(stack: ExitStack, directory: Path) -> RedisChoice:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="redis-", dir=directory)))
    except OSError as error:
        raise StartUpError(f"cannot create a folder for Redis in {directory}: {error}") from error
    refusals: list[str] = []
    programs = [found for name in SERVER_PROGRAMS if (found := shutil.which(name))]
    for program in programs:
        try:
            url, version = stack.enter_context(_server_program(program, folder))
            return RedisChoice(url, f"{program} {version}, started here")
        except StartUpError as error:
            refusals.append(str(error))
    try:
        url = stack.enter_context(_embedded(folder))
    except StartUpError as error:
        raise StartUpError("\n".join(["no Redis can be started:", *refusals, str(error)])) from error
    reason = "; ".join(refusals) or f"no {' or '.join(SERVER_PROGRAMS)} on the PATH"
    return RedisChoice(url, f"embedded ({reason})")


@contextmanager
def _server_program(program: str, folder: Path) -> Iterator[tuple[str, str]]:
    """A real server on a free loopback port: its URL and version."""
    last_error = StartUpError(f"{program} cannot be started")
    for _ in range(PORT_ATTEMPTS):
        with socket.create_server((HOST, 0)) as probe:
            port = probe.getsockname()[1]
        command = [
            program,
            *("--bind", HOST, "--port", str(port), "--dir", str(folder), "--daemonize", "no"),
            *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
        ]
        url = f"redis://{HOST}:{port}/0"
        with _child(command) as (process, log):
            try:
                _wait_until_it_answers(url, process, log, program, answers=_is_process(process.pid))
                version = _check(url)
            except StartUpError as error:
                last_error = error  # somebody may have taken the port: try another
                continue
            yield url, version
            return
    raise last_error


@contextmanager
def _embedded(folder: Path) -> Iterator[str]:
    """The embedded server as a process of its own, on a socket it inherits: nobody can take its port."""
    with socket.create_server((HOST, 0)) as listener:
        url = f"redis://{HOST}:{listener.getsockname()[1]}/0"
        os.set_inheritable(listener.fileno(), True)
        command = [sys.executable, "-m", "cluster.serve.redis_server", str(listener.fileno())]
        with _child(command, keep=(listener.fileno(),), directory=folder) as (process, log):
            listener.close()
            _wait_until_it_answers(
                url, process, log, "the embedded Redis", answers=lambda client: client.ping()
            )
            yield url


@contextmanager
def _child(
    command: list[str], keep: tuple[int, ...] = (), directory: Path | None = None
) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    """A process that ends with the context. A session of its own: Ctrl-C is for us, and we end it last."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            bound_command(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=os.environ | {"PYTHONPATH": python_path()},
            pass_fds=keep,
            start_new_session=True,
        )
        try:
            yield process, log
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_answers(
    url: str, process: "subprocess.Popen[bytes]", log: IO[bytes], name: str, answers: Callable[[Any], bool]
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with _client(url) as client:
                if answers(client):
                    return
        except (RedisError, OSError):
            pass
        time.sleep(0.02)
    log.seek(0)
    said = log.read().decode(errors="replace").strip()[-2000:]
    what = "does not answer" if process.poll() is None else f"ended with exit code {process.returncode}"
    raise StartUpError(f"{name} {what}" + (f": {said}" if said else ""))


def _is_process(process_id: int) -> Callable[[Any], bool]:
    """Whether the server that answers is the process we started, not one that had the port before."""
    return lambda client: bool(client.info("server").get("process_id") == process_id)


def _check(url: str) -> str:
    """Make sure that a Redis that is new enough answers at ``url``. Returns its version."""
    shown = masked(url)
    try:
        version = asyncio.run(_version(url))
    except StoreUnavailableError as error:
        if isinstance(error.__cause__, AuthenticationError | AuthorizationError):
            raise StartUpError(f"Redis at {shown} refuses the user or password: {error.__cause__}") from error
        raise StartUpError(
            f"Redis at {shown} does not answer: {error.__cause__}. "
            "Start it, correct REDIS_URL, or leave REDIS_URL unset to have one started for you."
        ) from error
    major = version.split(".")[0]
    if major.isdigit() and int(major) < OLDEST_MAJOR_VERSION:
        raise StartUpError(
            f"Redis at {shown} is version {version}; {OLDEST_MAJOR_VERSION} or newer is needed"
        )
    return version


async def _version(url: str) -> str:
    client: Any = connect(url, ANSWER_SECONDS)
    try:
        with translated_errors():
            await client.ping()
            try:
                information = await client.info("server")
            except ResponseError:  # some hosted and embedded servers have no INFO
                return "unknown"
    finally:
        await client.aclose()
    if "redis_version" not in information:  # a cluster: one answer per node
        information = next(iter(information.values()))
    return str(information.get("redis_version", "unknown"))


def _client(url: str) -> Any:
    return Redis.from_url(
        url,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


class _EmbeddedServer(socketserver.ThreadingTCPServer):
    """fakeredis behind a socket.

    Its own TCP server (2.40) closes the connection after every error reply, which breaks EVALSHA with its
    NOSCRIPT, and reads line by line, which takes seconds for binary megabytes. So the loop is ours.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listener: socket.socket) -> None:
        from fakeredis import FakeServer

        address = listener.getsockname()
        super().__init__(address, _EmbeddedConnection, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.data = FakeServer(server_type="redis", version=(7,))


class _EmbeddedConnection(socketserver.BaseRequestHandler):
    server: _EmbeddedServer

    def handle(self) -> None:
        """Feed what the client sends to fakeredis, and write what it answers or pushes."""
        from fakeredis._clients._sync import FakeRedisConnection

        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client: Any = FakeRedisConnection(
            server=self.server.data,
            client_info={"laddr": self.request.getsockname(), "addr": self.client_address, "fd": 0},
            protocol=2,  # until the client says HELLO
        )
        engine = client.get_socket()
        try:
            while True:
                if select.select([self.request], [], [], PUSH_POLL_SECONDS)[0]:
                    received = self.request.recv(1 << 18)
                    if not received:
                        return
                    engine.sendall(received)
                replies = self._replies(client, engine)
                if replies:
                    self.request.sendall(replies)
        except ConnectionError:
            return  # the client is gone
        finally:
            client.disconnect()

    @staticmethod
    def _replies(client: Any, engine: Any) -> bytes:
        from fakeredis._clients._tcp_server import encode_reply

        replies = []
        while client.can_read():
            try:
                reply = client.read_response()
            except RedisError as error:
                reply = error
            replies.append(encode_reply(reply, engine._client_info.protocol_version))
        return b"".join(replies)


def _serve_embedded(descriptor: int) -> None:
    """Serve on an inherited listening socket until killed. Runs in the child."""
    with _EmbeddedServer(socket.socket(fileno=descriptor)) as server:
        server.serve_forever()


if __name__ == "__main__":
    _serve_embedded(int(sys.argv[1]))
