"""Limits on many waits, looked at together."""

import asyncio
from itertools import pairwise

from router.http.time_limits import MAX_AT_ONCE, NEVER, Watchdog
from tests.waiting import eventually


class Waiting:
    """Something that is overdue at once, and what it does then."""

    def __init__(self, then=lambda: None):
        self.deadline = 0.0
        self.times = 0
        self._then = then

    def overdue(self):
        """Count it."""
        self.times += 1
        self.deadline = NEVER
        self._then()


async def test_one_that_fails_does_not_end_the_others_limits():
    """An error in one of them is reported, and the rest is looked at next time."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))

    def fail():
        raise ValueError("a mistake")

    watchdog = Watchdog(0.001)
    watched = [Waiting(fail if number == 2 else lambda: None) for number in range(5)]
    for each in watched:
        watchdog.add(each)
    await eventually(lambda: all(each.times == 1 for each in watched))
    assert [str(error) for error in errors] == ["a mistake"]
    watchdog.close()


async def test_many_at_once_take_turns():
    """What they wake does not hold the event loop: a few end, then others run."""
    watchdog = Watchdog(0.001)
    watched = [Waiting() for _ in range(3 * MAX_AT_ONCE)]
    for each in watched:
        watchdog.add(each)
    seen = set()

    while len(watched) not in seen:
        seen.add(sum(each.times for each in watched))
        await asyncio.sleep(0)
    assert max(later - sooner for sooner, later in pairwise(sorted(seen))) <= MAX_AT_ONCE
    watchdog.close()


async def test_one_that_was_discarded_by_another_is_left_alone():
    """Also when both were overdue at the same time."""
    watchdog = Watchdog(0.001)
    pair = [Waiting(), Waiting()]
    pair[0]._then = lambda: watchdog.discard(pair[1])
    pair[1]._then = lambda: watchdog.discard(pair[0])
    for each in pair:
        watchdog.add(each)
    await eventually(lambda: any(each.times for each in pair))
    await asyncio.sleep(0.01)
    assert sorted(each.times for each in pair) == [0, 1]
    watchdog.close()
