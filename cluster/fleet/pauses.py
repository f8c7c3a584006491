"""Requests that wait until programs have made room in KV memory: the program that began first goes first."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, order=True)
class Pause:
    """One request that waits."""

    began: float
    """When its program's first turn came, in monotonic seconds."""
    number: int
    go: Callable[[], None] = field(compare=False)
    over: bool = field(default=False, compare=False)
    """Whether it waits no longer."""


class Pauses:
    """All requests that wait for room. Who is woken decides anew, and may come back to the same place."""

    def __init__(self) -> None:
        self._queue: list[Pause] = []
        self.num_turns = 0
        """How many requests have begun to wait so far."""
        self._num_entered = 0
        self._waking = self._again = False

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(not pause.over for pause in self._queue)

    def is_first(self, pause: Pause) -> bool:
        """Whether nobody is to be woken before it."""
        while self._queue and self._queue[0].over:
            heapq.heappop(self._queue)
        return bool(self._queue) and self._queue[0] is pause

    def enter(self, began: float, go: Callable[[], None]) -> Pause:
        """Wait: ``go`` is called once, when there may be room. Setting ``over`` ends the waiting without."""
        self._num_entered += 1
        pause = Pause(began, self._num_entered, go)
        heapq.heappush(self._queue, pause)
        return pause

    def wake(self) -> None:
        """There may be more room: the first decides anew. If it goes, its booking leads here again."""
        self._again = True
        if self._waking:
            return
        self._waking = True
        try:
            while self._again and self._queue:
                self._again = False
                pause = heapq.heappop(self._queue)
                if pause.over:
                    self._again = True
                else:
                    pause.over = True
                    pause.go()
        finally:
            self._waking = False
