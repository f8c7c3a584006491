"""Tasks that live and die together, and pauses that grow."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any


async def run_together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run until the first one ends, then cancel the others; raises what that first one raised.

    Like `asyncio.TaskGroup`, but with plain exceptions, because the callers act on their kind.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def growing_pauses(first: float, limit: float) -> Iterator[float]:
    """Seconds to wait before each further attempt: doubled every time, up to a limit."""
    pause = first
    while True:
        yield min(pause, limit)
        pause = min(pause * 2, limit)


def raise_if_cancelled() -> None:
    """Notice a cancellation of this task that a library has swallowed.

    redis-py wraps each send in `asyncio.wait_for`, which in Python 3.11 drops a cancellation that arrives
    while the send completes. A loop that awaits such calls has to look for itself.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
