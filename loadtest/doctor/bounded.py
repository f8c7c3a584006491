"""A dictionary that forgets what has not been used for longest."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """At most so many entries."""

    def __init__(self, max_entries: int) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._max_entries = max_entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """What is kept under a key; it counts as used."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> V:
        """Keep a value, and return it."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
        return value

    def first(self, key: K, value: V) -> V:
        """What is kept under a key: this value when nothing was."""
        known = self.get(key)
        return self.put(key, value) if known is None else known

    def items(self) -> list[tuple[K, V]]:
        """All keys with what is kept, least recently used first."""
        return list(self._entries.items())

    def values(self) -> list[V]:
        """All that is kept, least recently used first."""
        return list(self._entries.values())
