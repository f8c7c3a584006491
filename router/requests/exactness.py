"""For which requests of a model the router's tokens are not the engine's, as far as replies have shown.

A reply whose count of prompt tokens differs says something about its own conversation. Three conversations of
one unusual shape in a row say something about that shape, unless one of it has agreed lately. Nothing that a
client sends says anything about ordinary requests, or about other shapes: for these only the comparison with
the engine's ``/tokenize`` counts (`router.requests.tokenizers`).
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from router.requests.schema import Call
from router.requests.shapes import Shape, shape_of

MAX_CONVERSATIONS = 10_000
"""Conversations remembered as not exact; beyond, those that differed first are tried again."""
MAX_SHAPES = 64
DIFFERENCES = 3
"""Conversations in a row that differ before a shape is no longer believed."""
AGREED_SECONDS = 300.0
"""A shape that has agreed within this time is believed, however many of its conversations differ."""
LOOK_SECONDS = 0.1
"""How often a reply that agrees is noted while nothing differs: looking at its shape takes microseconds."""
MAX_AGREED = 1024
"""Shapes remembered as having agreed."""
TRIAL_SECONDS = 5.0
"""First pause before a request of a shape that is not believed is compared again; it doubles every time."""
TRIAL_LIMIT_SECONDS = 300.0
FORGET_SECONDS = 900.0
"""A shape of which nothing has differed for so long is like a new one."""


@dataclass(slots=True)
class _Record:
    """What replies have said of one shape; times are monotonic, in seconds."""

    differences: int = 0
    """Conversations that have differed since one agreed."""
    believed: bool = True
    differed_at: float = float("-inf")
    trial_at: float = 0.0
    pause: float = TRIAL_SECONDS

    def differs(self, now: float, may_be_doubted: bool) -> None:
        """One more conversation has differed."""
        self.differences += 1
        if self.believed and self.differences >= DIFFERENCES and may_be_doubted:
            self.believed, self.pause = False, TRIAL_SECONDS
            self._wait(now)

    def agrees(self) -> None:
        """A reply has agreed."""
        self.differences, self.believed = 0, True

    def takes_trial(self, now: float) -> bool:
        """Whether the next request is to be compared although the shape is not believed."""
        if now < self.trial_at:
            return False
        self._wait(now)
        return True

    def _wait(self, now: float) -> None:
        self.trial_at = now + self.pause
        self.pause = min(2 * self.pause, TRIAL_LIMIT_SECONDS)


class Exactness:
    """What replies have shown of one model's requests."""

    def __init__(self) -> None:
        self._conversations: OrderedDict[int, Shape] = OrderedDict()
        """Conversations that have differed, and in which shape: others may begin in the same way."""
        self._records: OrderedDict[Shape, _Record] = OrderedDict()
        self._any_doubted = False
        self._agreed: OrderedDict[Shape, float] = OrderedDict()
        """When unusual shapes have agreed; also those of which nothing has differed yet."""
        self._look_at = float("-inf")

    def wants_agreement(self, now: float) -> bool:
        """Whether a reply that agrees is to be noted: any while something differs, otherwise some."""
        return bool(self._records) or now >= self._look_at

    def is_exact(self, call: Call, conversation_key: int, now: float) -> bool:
        """Whether this request's tokens are believed to be the engine's, or are to be compared once more."""
        if not self._any_doubted and conversation_key not in self._conversations:
            return True
        shape = shape_of(call)
        record = self._records.get(shape)
        if record is not None and not record.believed:
            return record.takes_trial(now)
        return self._conversations.get(conversation_key) != shape

    def agrees(self, shape: Shape, conversation_key: int, now: float) -> None:
        """A reply's count of prompt tokens was the router's."""
        self._look_at = now + LOOK_SECONDS
        if shape.features:
            self._agreed[shape] = now
            self._agreed.move_to_end(shape)
            if len(self._agreed) > MAX_AGREED:
                self._agreed.popitem(last=False)
        if (record := self._records.get(shape)) is not None:
            record.agrees()
            self._note_doubts()
        if self._conversations.get(conversation_key) == shape:
            del self._conversations[conversation_key]

    def differs(self, shape: Shape, conversation_key: int, now: float) -> None:
        """A reply's count of prompt tokens was another one."""
        record = self._records.setdefault(shape, _Record())
        record.differed_at = now
        self._records.move_to_end(shape)
        if len(self._records) > MAX_SHAPES:
            self._records.popitem(last=False)
        if self._conversations.get(conversation_key) != shape:
            self._conversations[conversation_key] = shape
            self._conversations.move_to_end(conversation_key)
            if len(self._conversations) > MAX_CONVERSATIONS:
                self._conversations.popitem(last=False)
            agreed_lately = now - self._agreed.get(shape, float("-inf")) < AGREED_SECONDS
            record.differs(now, may_be_doubted=bool(shape.features) and not agreed_lately)
        self._note_doubts()

    def forget_until(self, now: float) -> None:
        """Drop shapes of which nothing has differed for long, at a monotonic time in seconds."""
        old = [shape for shape, record in self._records.items() if now - record.differed_at > FORGET_SECONDS]
        for shape in old:
            del self._records[shape]
        if old:
            self._note_doubts()

    def _note_doubts(self) -> None:
        self._any_doubted = any(not record.believed for record in self._records.values())

    def problems(self) -> Iterator[str]:
        """What operators should know."""
        for shape, record in self._records.items():
            if not record.believed:
                yield f"{shape}: the engine counts other prompt tokens; such requests go by the ring"
            elif record.differences >= DIFFERENCES:
                yield (
                    f"{shape}: the engine counted other prompt tokens in {record.differences} conversations "
                    "in a row; these go by the ring"
                )
