"""What ``warmroute serve`` prints."""

import io

import pytest
from rich.console import Console

from cluster.serve import launcher
from cluster.serve.redis_server import RedisChoice
from cluster.serve.serve_settings import ServeSettings


@pytest.mark.parametrize(
    ("url", "shown", "typed"),
    [
        ("redis://127.0.0.1:1/0", "redis://127.0.0.1:1/0", "--redis-url redis://127.0.0.1:1/0 "),
        ("redis://me:hidden@h:1/0", "redis://me:***@h:1/0", '--redis-url "$REDIS_URL" '),
        ("redis+sentinel://:hidden@h:1/main", "redis+sentinel://:***@h:1/main", '"$REDIS_URL" '),
        ("redis://h/0?password=hidden", "redis://h/0?password=***", '"$REDIS_URL" '),
    ],
)
def test_passwords_are_not_printed(monkeypatch, url, shown, typed):
    """Where Redis is, without its password; the command that is proposed takes it from the environment."""

    async def no_replicas(*_):
        return {}

    monkeypatch.setattr(launcher, "fetch_replicas", no_replicas)
    monkeypatch.setattr(launcher, "replica_table", lambda answer: "no replicas")
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    launcher._welcome(ServeSettings(), RedisChoice(url, "given"), "m", console)
    assert f"Redis      {shown} " in printed.getvalue()
    assert typed in printed.getvalue()
    assert "hidden" not in printed.getvalue()
