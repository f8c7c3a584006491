"""What holds a router together."""

import asyncio
import re
from collections import Counter

import pytest

from cluster.process import tasks
from router import app
from tests.waiting import eventually


@pytest.mark.parametrize("error", [RuntimeError, OSError, asyncio.CancelledError, TimeoutError, None])
async def test_part_that_ends_is_run_again(start_router, engines, monkeypatch, error):
    """Every part of a router ends once, by any error or by none: all run again, and requests are served."""
    runs = Counter()

    class EndsOnce(tasks.Kept):
        def __init__(self, part, final=()):
            async def run():
                runs[part.__self__] += 1
                if runs[part.__self__] > 1:
                    await part()
                elif error is not None:
                    raise error

            super().__init__(run, final)

    monkeypatch.setattr(tasks, "RESTART_SECONDS", 0.01)
    monkeypatch.setattr(app, "Kept", EndsOnce)
    router = await start_router()
    await eventually(lambda: len(runs) >= 10 and set(runs.values()) == {2})
    router.admit(engines[0].url)
    await router.settled()
    async with router.post({"model": "m", "messages": [{"role": "user", "content": "hi"}]}) as response:
        assert response.status == 200


async def test_the_documentation_needs_nothing_from_elsewhere(router):
    """``/docs`` is a page whose files are all the router's own; it shows the OpenAPI document, which has the
    public API too.
    """
    async with router.client.get(router.url + "/docs") as response:
        loaded = re.findall(r'(?:src|href)="([^"]+)"', await response.text())
    assert "admin/static/docs.js" in loaded
    for path in loaded:
        assert "//" not in path
        async with router.client.get(f"{router.url}/{path}") as response:
            assert response.status == 200
    status, document = await router.get("/openapi.json")
    assert status == 200
    assert {"/v1/chat/completions", "/v1/messages", "/v1/models", "/admin/policy"} <= set(document["paths"])
