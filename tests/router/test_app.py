"""What holds a router together."""

import asyncio

from cluster.tasks import cancel_and_wait
from router import app
from tests.waiting import eventually


async def test_part_that_fails_is_run_again(monkeypatch):
    """A mistake in one part must not leave a router that is wrong for ever."""
    monkeypatch.setattr(app, "RESTART_SECONDS", 0.001)
    runs = []

    async def run():
        runs.append(1)
        if len(runs) < 3:
            raise RuntimeError("a mistake")
        await asyncio.Event().wait()

    task = asyncio.create_task(app._keep_running(run))
    await eventually(lambda: len(runs) == 3)
    assert not task.done()
    await cancel_and_wait(task)
