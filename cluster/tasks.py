"""Ending background tasks."""

import asyncio

REPEAT_SECONDS = 0.2


async def cancel_and_wait(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait until they have ended; what they raise is dropped.

    A cancellation can get lost: `asyncio.wait_for` of Python 3.11, which the Redis client sends with, drops
    one that arrives in the moment in which its work is done. So it is repeated.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=REPEAT_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
