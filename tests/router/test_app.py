"""What holds a router together."""

import asyncio
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
