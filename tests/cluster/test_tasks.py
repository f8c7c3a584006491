"""Background tasks end when they are told to."""

import asyncio
import random

import pytest

from cluster.fleet.fleet import Fleet
from cluster.process import tasks
from cluster.process.tasks import Kept, cancel_and_wait
from cluster.store.store import connect
from cluster.sync.follower import Follower
from tests.waiting import eventually


async def test_task_that_loses_a_cancellation_ends():
    """A library that swallows a cancellation does not keep the process alive."""

    async def deaf():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await cancel_and_wait(task)
    assert task.cancelled()


async def test_failed_and_finished_tasks_are_fine():
    """What a task raised before is not raised again."""

    async def fail():
        raise ValueError

    async def finish():
        pass

    async with asyncio.timeout(2):
        await cancel_and_wait(asyncio.create_task(fail()), asyncio.create_task(finish()))
        await cancel_and_wait()


async def test_kept_part_runs_again_until_cancelled(monkeypatch):
    """However it ends, cancellations from inside included. One from outside ends it, `restart` does not."""
    monkeypatch.setattr(tasks, "RESTART_SECONDS", 0.001)
    ends = [RuntimeError("a mistake"), asyncio.CancelledError(), None]
    runs = []

    async def part():
        runs.append(1)
        if ends:
            if (error := ends.pop()) is not None:
                raise error
            return
        await asyncio.Event().wait()

    kept = Kept(part)
    kept.restart()
    task = asyncio.create_task(kept.run())
    await eventually(lambda: len(runs) == 4)
    kept.restart()
    await eventually(lambda: len(runs) == 5)
    assert not task.done()
    async with asyncio.timeout(2):
        await cancel_and_wait(task)
    assert task.cancelled()


async def test_final_error_of_a_kept_part_is_passed_on():
    """What must end the process does."""

    async def part():
        raise KeyError("over")

    with pytest.raises(KeyError, match="over"):
        await Kept(part, final=(KeyError,)).run()


@pytest.mark.integration
async def test_follower_ends_whenever_it_is_cancelled(redis, keys, shared_redis):
    """Wherever the follower waits, it ends soon."""
    chance = random.Random(1)
    client = connect(shared_redis.url)
    for _ in range(25):
        follower = Follower(client, keys, Fleet(), poll_seconds=0.001)
        task = asyncio.create_task(follower.run())
        await asyncio.sleep(chance.random() * 0.01)
        async with asyncio.timeout(5):
            await cancel_and_wait(task)
    await client.aclose()
