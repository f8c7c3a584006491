"""Background tasks: keeping them running, and ending them for certain."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

REPEAT_SECONDS = 0.2
RESTART_SECONDS = 0.5
"""Pause before a part that has ended is run again."""

log = structlog.get_logger()


class Kept:
    """A part of a process that never ends by itself. When it does, by any error, that is a mistake of ours,
    and a process that went on without it would be wrong for ever: so it is run again.

    Only errors of the kinds in ``final`` are passed on.
    """

    def __init__(
        self, part: Callable[[], Coroutine[Any, Any, None]], final: tuple[type[BaseException], ...] = ()
    ) -> None:
        self._part = part
        self._final = final
        self._attempt: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run the part until cancelled. Raises what is final."""
        while True:
            # A task of its own: a cancellation that comes from inside ends the part only.
            attempt = self._attempt = asyncio.create_task(self._part())
            try:
                await asyncio.wait({attempt})
            finally:
                await cancel_and_wait(attempt)
            error = None if attempt.cancelled() else attempt.exception()
            if isinstance(error, self._final):
                raise error
            log.critical("background_task_ended", task=repr(self._part), exc_info=error)
            await asyncio.sleep(RESTART_SECONDS)

    def restart(self) -> None:
        """End the part, to have it run again. Nothing happens while it is not running."""
        if self._attempt is not None:
            self._attempt.cancel()


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
