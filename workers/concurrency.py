"""Tasks that live and die together, and pauses that grow."""

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any

from cluster.process.tasks import cancel_and_wait


async def run_together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run until the first one ends, then cancel the others; raises what that first one raised.

    Like `asyncio.TaskGroup`, but with plain exceptions, because the callers act on their kind.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(*tasks)
    for task in done:
        task.result()


def spread(seconds: float) -> float:
    """80 to 100% of a pause: dozens of engines in one process must not be asked all at once."""
    return seconds * random.uniform(0.8, 1.0)


def growing_pauses(first: float, limit: float) -> Iterator[float]:
    """Seconds to wait before each further attempt: doubled every time, up to a limit."""
    pause = first
    while True:
        yield min(pause, limit)
        pause = min(pause * 2, limit)
