"""Sends what many tasks of one process write to Redis in few round trips, and makes Redis' errors ours.

A command goes out at once when none is under way. Those that come meanwhile go out together, in one pipeline:
with dozens of agents in a process that is a third of the work per command.
"""

import asyncio
import hashlib
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, ref

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    ClusterError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from cluster.errors import StoreRefusesError, StoreUnavailableError

SCRIPTS = Path(__file__).parent / "redis_scripts"
MAX_PIPELINED = 64
"""Commands in one round trip."""
MAX_REASON = 160
"""Characters of what Redis says that stand in an error."""
WRITE = AbstractConnection.send_packed_command.__code__
"""Where redis-py writes a command to its connection."""

RedisClient: TypeAlias = Redis | RedisCluster
"""A client as `cluster.store.store.connect` returns it."""

Command: TypeAlias = tuple[str | bytes | int, ...]


class Commands:
    """The commands of all tasks that use one client."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = ref(redis)  # whoever uses this holds the client
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, redis: RedisClient) -> "Commands":
        """Those of this client; the same for everybody who asks."""
        return _by_client.setdefault(redis, cls(redis))

    async def execute(self, *command: str | bytes | int) -> Any:
        """Send a command and return its answer. Raises `StoreUnavailableError` and `StoreRefusesError`."""
        with translated_errors():
            return await self.send(*command)

    async def send(self, *command: str | bytes | int) -> Any:
        """The same, but raises what the client raises."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        now: list[tuple[Command, asyncio.Future[Any]]] = []
        try:
            while self._waiting:
                now, self._waiting = self._waiting[:MAX_PIPELINED], self._waiting[MAX_PIPELINED:]
                try:
                    answers = await self._answers([command for command, _ in now])
                except Exception as error:
                    answers = [error] * len(now)
                for (_, future), answer in zip(now, answers, strict=True):
                    if future.done():  # its task was cancelled
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        finally:
            self._sender = None
            # Cancelled, by whomever: nobody would ever answer these.
            for _, future in (*now, *self._waiting):
                if not future.done():
                    future.set_exception(ConnectionError("the command was not sent"))
            self._waiting = []

    async def _answers(self, commands: list[Command]) -> list[Any]:
        redis: Any = self._redis()
        if len(commands) == 1:
            return [await redis.execute_command(*commands[0])]
        pipeline = redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers


_by_client: WeakKeyDictionary[RedisClient, Commands] = WeakKeyDictionary()


class Script:
    """One of the Lua scripts of this package. All its keys must have the same hash tag."""

    def __init__(self, redis: RedisClient, name: str) -> None:
        self._commands = Commands.of(redis)
        self._source = (SCRIPTS / f"{name}.lua").read_text()
        self._sha = hashlib.sha1(self._source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """Run it where its keys are. Raises like `Commands.execute`.

        A server that does not know it gets its source with the call: redis-py's own scripts are loaded into
        every primary of a cluster instead, which fails for all when one of them is away.
        """
        with translated_errors():
            try:
                return await self._commands.send("EVALSHA", self._sha, len(keys), *keys, *args)
            except NoScriptError:
                return await self._commands.send("EVAL", self._source, len(keys), *keys, *args)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what the Redis client raises into `StoreUnavailableError`, of which `StoreRefusesError` is one."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
        kind = StoreUnavailableError
        if isinstance(error, ResponseError | AuthenticationError) and not isinstance(error, ClusterError):
            kind = StoreRefusesError  # a cluster's own errors say that a part of it is away
        raise kind(f"Redis: {_reason(error)}") from error
    except (RuntimeError, AttributeError, TypeError) as error:
        # What writing to a connection raises that was reset just before, or that a cluster's client closed
        # under another caller: uvloop, asyncio (differently in each Python) and redis-py each say it in their
        # own way, and redis-py passes it on.
        if not any(frame.f_code is WRITE for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise
        raise StoreUnavailableError(f"Redis: the connection was lost ({error})") from error


def _reason(error: Exception) -> str:
    """What Redis or its client says, with the code that redis-py takes off: OOM, READONLY, NOPERM."""
    code = getattr(error, "status_code", None)
    text = str(error) or type(error).__name__
    return (f"{code} {text}" if code and not text.startswith(code) else text)[:MAX_REASON]
