"""What a router's log says while it cannot serve yet."""

import asyncio

import structlog

from cluster.fleet.fleet import Fleet
from router.health import readiness
from router.health.readiness import Readiness


async def test_a_router_says_what_it_waits_for(monkeypatch):
    """At once, again after a while, and then that it is ready; nothing while nothing changes."""
    monkeypatch.setattr(readiness, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(readiness, "SAY_SECONDS", 0.1)
    router, missing = Readiness(Fleet(1000), None, None, None), ["no replica is ready"]
    monkeypatch.setattr(router, "missing", lambda: list(missing))
    with structlog.testing.capture_logs() as lines:
        saying = asyncio.create_task(router.run())
        await asyncio.sleep(0.5)
        missing.clear()
        await asyncio.sleep(0.3)
        saying.cancel()
    events = [line["event"] for line in lines]
    assert events[0] == events[1] == "router_waits"
    assert len(events) <= 7
    assert events[-1] == "router_ready"
    assert events.count("router_ready") == 1
    assert lines[0]["missing"] == ["no replica is ready"]
