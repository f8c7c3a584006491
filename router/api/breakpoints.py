"""What an answer of the Messages API says of ``cache_control``, and what is remembered of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cluster.apis.breakpoints import KnownBreakpoints, Mark, split_usage
from cluster.fleet.replicas import Model
from router.http.sse import EventFilter, Usage
from router.http.stream_formats import MESSAGE, NO_ANSWER, PassedEvents, usage_of_input
from router.requests.prompts import PreparedPrompt

WITH_USAGE = (b"event: message_start\n", b"event: message_delta\n")


class BreakpointKeeper:
    """Of one request; in the place of a `router.api.keeper.Keeper`."""

    def __init__(self, known: KnownBreakpoints, model: Model, prompt: PreparedPrompt) -> None:
        self._known, self._model, self._prompt = known, model, prompt
        self._marks = prompt.marks or ()

    def events(self) -> EventFilter:
        """What reads the stream on its way to the client."""
        return _SplitEvents(marks=self._marks, ends=MESSAGE.ends, read_usage=usage_of_input)

    async def whole(self, body: bytes) -> bytes:
        """What the client gets of a whole answer."""
        self._remember(usage_of_input(body))
        return _split(body, self._marks)

    async def end(self, events: EventFilter) -> bytes:
        """Nothing is held back."""
        self._remember(events.usage)
        return b""

    def _remember(self, usage: Usage | None) -> None:
        model, keys = self._model, self._prompt.keys
        block_size = model.namespace.block_size if model.namespace else 0
        for mark in self._marks if len(keys) else ():
            num_blocks = mark.tokens // block_size
            was_held = usage is not None and (usage.cached_tokens or 0) >= num_blocks * block_size
            self._known.add(model.name, f"{keys[num_blocks - 1]:016x}", mark, was_held, time.time())


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class _SplitEvents(PassedEvents):
    """Passes on events, of those with counts what `split_usage` makes of them."""

    marks: Sequence[Mark]

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return those that go on, in whole events."""
        passed = []
        for one in self.split(data):
            self._read(one)
            if one.startswith(WITH_USAGE):
                head, _, fields = one.partition(b"data:")
                one = b"%bdata: %b\n\n" % (head, _split(fields, self.marks))
            passed.append(one)
        return b"".join(passed)


def _split(body: bytes, marks: Sequence[Mark]) -> bytes:
    """A message, or the data of an event."""
    try:
        answer = msgspec.json.decode(body)
        inner: dict[str, Any] = answer.get("message") or answer
        inner["usage"] = split_usage(inner["usage"], marks)
    except NO_ANSWER:
        return body.strip()
    return msgspec.json.encode(answer)
