"""Limits on waits hold, whatever happens to one of them."""

import asyncio

from router.watchdog import Watchdog
from tests.waiting import eventually


class Wait:
    """Something whose time is over."""

    deadline = 0.0

    def __init__(self, watchdog, error=None):
        self.watchdog, self.error = watchdog, error
        self.ended = False

    def overdue(self):
        self.ended = True
        self.watchdog.discard(self)
        if self.error is not None:
            raise self.error


async def test_mistake_in_one_wait_does_not_end_the_limits_of_others():
    """It is reported, and later waits are still limited."""
    said = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["exception"]))
    watchdog = Watchdog(0.001)
    bad = Wait(watchdog, ValueError("a mistake"))
    watchdog.add(bad)
    later = Wait(watchdog)
    await eventually(lambda: bad.ended)
    watchdog.add(later)
    await eventually(lambda: later.ended)
    assert [str(error) for error in said] == ["a mistake"]
    watchdog.close()
