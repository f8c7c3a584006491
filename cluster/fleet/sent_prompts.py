"""What replicas were sent of which only texts are known here: so that conversations stay together.

Nobody reports what becomes of it. It counts as held until it is old, or until its replica has been sent as
much to compute since as its cache has room for.
"""

import math
from collections import OrderedDict
from typing import NamedTuple

from cluster.fleet.replicas import Replica
from cluster.index.prefix_index import Expectation, PrefixIndex

AGE_SECONDS = 600.0
LOOK_SECONDS = 10.0
"""How often replicas that are sent nothing are looked at for what is old."""
DEFAULT_ROOM_TOKENS = 65_536
"""Of a cache whose size is not known."""
MAX_KEYS = 1 << 20
"""Of all replicas together, about 20 bytes each."""


class _Sent(NamedTuple):
    expectation: Expectation
    until: float
    until_sent: int
    """Of all tokens that its replica is ever sent."""


class SentPrompts:
    """The last prompts of conversations, by slot. Times are monotonic seconds."""

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._sent: dict[int, OrderedDict[int, _Sent]] = {}
        self.num_keys = 0
        self._look_at = 0.0

    def keep(self, replica: Replica, conversation_key: int, expectation: Expectation, now: float) -> None:
        """A conversation's prompt has been computed, and takes the place of what that was sent before."""
        lease, sent = replica.lease, self._sent.setdefault(expectation.slot, OrderedDict())
        self._forget(expectation.slot, conversation_key)
        room = lease.capacity_blocks * lease.block_size or DEFAULT_ROOM_TOKENS
        sent[conversation_key] = _Sent(expectation, now + AGE_SECONDS, replica.sent_tokens + room)
        self.num_keys += len(expectation.keys)
        while self.num_keys > MAX_KEYS:
            slot = max(self._sent, key=lambda slot: len(self._sent[slot]))
            self._forget(slot, next(iter(self._sent[slot])))

    def trim(self, replica: Replica) -> None:
        """Forget what the replica has been sent too much since for its cache to hold it still."""
        if sent := self._sent.get(replica.slot):
            self._expire(replica.slot, sent, -math.inf, replica.sent_tokens)

    def expire(self, now: float) -> None:
        """Forget what is old."""
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            for slot, sent in self._sent.items():
                self._expire(slot, sent, now, 0)

    def _expire(self, slot: int, sent: OrderedDict[int, _Sent], now: float, sent_tokens: int) -> None:
        while sent:
            key, first = next(iter(sent.items()))
            if first.until > now and first.until_sent > sent_tokens:
                break
            self._forget(slot, key)

    def _forget(self, slot: int, conversation_key: int) -> None:
        if (known := self._sent[slot].pop(conversation_key, None)) is not None:
            self.num_keys -= len(known.expectation.keys)
            self._index.forget(known.expectation)
