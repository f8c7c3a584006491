"""The connection to Redis, and the one place where its errors become ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cluster.errors import StoreUnavailableError

SCRIPTS = Path(__file__).parent / "redis_scripts"


def connect(url: str, timeout: float = 2.0) -> Redis:
    """A client that gives up on Redis soon instead of hanging. Does not connect yet.

    Each command is tried twice, ``timeout`` seconds at most each time: a connection from the pool may have
    died unnoticed.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 1),
        decode_responses=False,
    )


def script(name: str) -> str:
    """Source of one of the Lua scripts of this package."""
    return (SCRIPTS / f"{name}.lua").read_text()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what the Redis client raises into `StoreUnavailableError`."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailableError(f"Redis: {error or type(error).__name__}") from error
