"""What was sent of conversations before, so that it can be said where and why a later turn differs.

The bytes of each conversation's last request are kept, in this process only and within a bound. They are the
ones that were sent anyway: remembering them costs a reference, and they are looked into only when a turn does
not go on where the last one ended.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import xxhash

from cluster.index.block_table import BlockKeys

MAX_BYTES = 64 * 1024 * 1024
MAX_REQUEST_BYTES = 1024 * 1024
"""Longer requests are not remembered."""
MAX_MARKS = 100_000
"""Of so many texts it is known in which namespaces they have been sent."""
ENTRY_BYTES = 500
"""The memory that an entry takes besides its request, about."""
LOOKED_AT = 2
"""A conversation is looked for by so many user messages, from the last one back."""

_encode = msgspec.json.Encoder().encode

Messages: TypeAlias = Sequence[Mapping[str, Any]]


class Turn(msgspec.Struct, gc=False):
    """The last turn of a conversation."""

    path: str
    raw: bytes
    keys: BlockKeys
    prompt_tokens: int
    tokens: int
    """The tokens of the prompt and of its answer."""

    @property
    def num_bytes(self) -> int:
        """The memory that it takes, about."""
        return len(self.raw) + self.keys.nbytes + ENTRY_BYTES


class Conversations:
    """The last turns of conversations, by namespace and user message, and where texts were sent before."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._turns: OrderedDict[int, Turn] = OrderedDict()
        self._namespaces: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        """Conversations remembered."""
        return len(self._turns)

    def last_turn(self, marks: Iterable[int], namespace: int) -> Turn | None:
        """The turn before the one with these marks, in the same namespace."""
        for mark in marks:
            if turn := self._turns.get(mark ^ namespace):
                return turn
        return None

    def tokens_elsewhere(self, marks: Iterable[int], namespace: int) -> int:
        """How many tokens of what has these marks were sent before in another namespace."""
        known = [self._namespaces[mark] for mark in marks if mark in self._namespaces]
        return max((tokens for other, tokens in known if other != namespace), default=0)

    def keep(self, mark: int, namespace: int, turn: Turn) -> None:
        """Remember a turn that has been answered, by its last user message's mark."""
        self.note(mark, namespace, turn.tokens)
        if not 0 < len(turn.raw) <= MAX_REQUEST_BYTES:
            return
        self._forget(mark ^ namespace)
        self._turns[mark ^ namespace] = turn
        self._num_bytes += turn.num_bytes
        while self._num_bytes > self._max_bytes:
            self._forget(next(iter(self._turns)))

    def note(self, mark: int, namespace: int, tokens: int) -> None:
        """Remember that a text was sent in a namespace, and that it ended after so many tokens there."""
        self._namespaces[mark] = namespace, tokens
        self._namespaces.move_to_end(mark)
        if len(self._namespaces) > MAX_MARKS:
            self._namespaces.popitem(last=False)

    def _forget(self, name: int) -> None:
        if turn := self._turns.pop(name, None):
            self._num_bytes -= turn.num_bytes


def marks_of(messages: Messages) -> list[int]:
    """Hashes of the last user messages, the last one first, each with the answer that came before it: what
    distinguishes conversations, whatever happens to their openings.
    """
    marks: list[int] = []
    for number in range(len(messages) - 1, -1, -1):
        if messages[number]["role"] == "user":
            answered = number and messages[number - 1]["role"] == "assistant"
            marks.append(_exchange_mark(messages[number - 1 if answered else number : number + 1]))
            if len(marks) == LOOKED_AT:
                break
    return marks


def _exchange_mark(messages: Messages) -> int:
    """A hash that distinguishes as `_hash` does; where they are nothing but texts, in a tenth of its time."""
    texts = []
    for message in messages:
        text = message.get("content")
        if type(text) is not str or len(message) != 2:  # role and content
            return _hash(messages)
        texts.append(text)
    return hash(tuple(texts))


def opening_mark(messages: Messages) -> int | None:
    """A hash of the messages before the first user message; None when there are none."""
    first_user = next((n for n, message in enumerate(messages) if message["role"] == "user"), 0)
    return _hash(messages[:first_user]) if first_user else None


def _hash(messages: Messages) -> int:
    return xxhash.xxh3_64_intdigest(_encode(messages))
