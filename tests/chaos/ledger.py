"""What was broken when, to tell a failure that had a cause from one that had none."""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SLACK_SECONDS = 0.25
"""How long after a fault its effect may still show: bytes are under way."""


@dataclass(slots=True)
class _Spell:
    begin: float
    end: float = math.inf


@dataclass(slots=True)
class Ledger:
    """Times at which routers, and paths to engines, were out of order."""

    _spells: dict[str, list[_Spell]] = field(default_factory=dict)

    @contextmanager
    def out(self, *names: str) -> Iterator[None]:
        """These are out of order as long as the context is open."""
        spell = _Spell(time.monotonic())
        for name in names:
            self._spells.setdefault(name, []).append(spell)
        try:
            yield
        finally:
            spell.end = time.monotonic()

    def was_out(self, name: str, begin: float, end: float) -> bool:
        """Whether it was out of order at any time in between."""
        return any(
            spell.begin <= end and spell.end + SLACK_SECONDS >= begin for spell in self._spells.get(name, ())
        )

    def num_out(self, names: Iterable[str], begin: float, end: float) -> int:
        """How many of these were."""
        return sum(self.was_out(name, begin, end) for name in names)


def path(router: str, replica: str) -> str:
    """Name of the way from a router to an engine."""
    return f"{router}-{replica}"


def breaks(router: str, replica: str) -> str:
    """Name of the same way when requests on it are broken off, not only held up."""
    return f"{path(router, replica)} breaks"
