"""What ``warmroute serve`` prints."""

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from cluster.errors import StartUpError
from cluster.serve import launcher
from cluster.serve.redis_server import RedisChoice
from cluster.serve.serve_settings import ServeSettings


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:1/0", "redis://127.0.0.1:1/0"),
        ("redis://me:hidden@h:1/0", "redis://me:***@h:1/0"),
        ("redis+sentinel://:hidden@h:1/main", "redis+sentinel://:***@h:1/main"),
        ("redis://h/0?password=hidden", "redis://h/0?password=***"),
    ],
)
def test_passwords_are_not_printed(monkeypatch, url, shown):
    """Where Redis is, without its password; the commands that are proposed find it by themselves."""

    async def no_replicas(*_):
        return {}

    monkeypatch.setattr(launcher, "fetch_replicas", no_replicas)
    monkeypatch.setattr(launcher, "replica_table", lambda answer: "no replicas")
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    monkeypatch.setattr(launcher.shutil, "which", lambda name: f"/usr/bin/{name}")
    launcher._welcome(ServeSettings(), RedisChoice(url, "given"), "m", console)
    assert f"Redis      {shown} " in printed.getvalue()
    assert "warmroute check)" in printed.getvalue()
    assert "warmroute status" in printed.getvalue()
    assert "hidden" not in printed.getvalue()


@pytest.mark.parametrize("failures", [1, 2])
def test_ray_that_does_not_start_in_time_is_tried_again(monkeypatch, failures):
    """Once more, and said so; then one line says what was tried and what helps."""
    said, starts = [], iter([Exception("The node timed out.\nmore")] * failures)

    def init(**_):
        for error in starts:
            raise error

    serve = SimpleNamespace(start=lambda **_: said.append("serve"))
    ray = SimpleNamespace(init=init, shutdown=lambda: None, serve=serve)
    monkeypatch.setitem(sys.modules, "ray", ray)
    current = SimpleNamespace(update=said.append)
    if failures == 1:
        launcher._start_ray(ServeSettings(), current)
        assert said == ["did not start, trying once more: The node timed out.", "serve"]
    else:
        with pytest.raises(StartUpError, match=r"tried twice: The node timed out\. .*=120, .*--ray-address"):
            launcher._start_ray(ServeSettings(), current)
