"""What an operator should look at: each alarm has a name, a text, and perhaps an end."""

import time
from collections.abc import Callable

from workers.agent.mirror import Mirror
from workers.engines.engine import EngineDescription


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

    def set_for_engine(self, found: EngineDescription, fingerprint: str) -> None:
        """Raise what is wrong with how an engine was started."""
        sources = found.sources
        if not sources:
            self.set("events", "the engine publishes no KV events: routed by ring and load")
        if any(source.replay_endpoint is None for source in sources):
            self.set("replay", "the engine has no replay_endpoint: lost KV events cannot be asked for again")
        if any(source.on_all_interfaces for source in sources):
            text = "KV events, which hold prompt tokens, are open to the network: use ipc:// endpoints"
            self.set("exposed", text)
        if len(sources) > 1:
            text = f"{len(sources)} data-parallel ranks behind one address: hits depend on the rank"
            self.set("ranks", text)
        if not fingerprint:
            self.set("tokenizer", f"no tokenizer files can be read at {found.model_directory}")

    def set_for_mirror(self, mirror: Mirror, seconds: float) -> None:
        """Raise what is wrong with the KV events so far."""
        counts = mirror.counts
        orphans = mirror.num_parked + counts.given_up
        text = f"{orphans} blocks follow blocks that were never announced"
        self.set_for(orphans, "parked", text, seconds)
        text = f"{counts.malformed} blocks in contradictory KV events"
        self.set_for(counts.malformed, "malformed", text, seconds)
        text = f"{counts.other_size} blocks of {mirror.seen_block_size} instead of {mirror.block_size} tokens"
        self.set_for(counts.other_size, "other-size", text, seconds)

    def texts(self) -> tuple[str, ...]:
        """Texts of the alarms that are raised now, in the order of their names."""
        now = self._clock()
        self._alarms = {name: alarm for name, alarm in self._alarms.items() if alarm[1] > now}
        return tuple(self._alarms[name][0] for name in sorted(self._alarms))
