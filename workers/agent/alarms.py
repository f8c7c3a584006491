"""What an operator should look at: each alarm has a name, a text, and perhaps an end."""

import time
from collections.abc import Callable


class Alarms:
    """The alarms of one replica. Raising one again replaces its text."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._alarms: dict[str, tuple[str, float]] = {}
        self._counts: dict[str, int] = {}

    def set(self, name: str, text: str, seconds: float = float("inf")) -> None:
        """Raise an alarm for ``seconds``, or until it is cleared."""
        self._alarms[name] = (text, self._clock() + seconds)

    def clear(self, name: str) -> None:
        """End an alarm; nothing happens when it is not raised."""
        self._alarms.pop(name, None)

    def set_for(self, count: int, name: str, text: str, seconds: float) -> None:
        """Raise an alarm for ``seconds`` each time a count has changed; end it when the count is zero."""
        if not count:
            self.clear(name)
        elif count != self._counts.get(name):
            self.set(name, text, seconds)
        self._counts[name] = count

    def texts(self) -> tuple[str, ...]:
        """Texts of the alarms that are raised now, in the order of their names."""
        now = self._clock()
        self._alarms = {name: alarm for name, alarm in self._alarms.items() if alarm[1] > now}
        return tuple(self._alarms[name][0] for name in sorted(self._alarms))
