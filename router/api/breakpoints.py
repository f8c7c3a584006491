"""What an answer of the Messages API says of ``cache_control``, and what is remembered of it."""

import time
from dataclasses import dataclass

import msgspec

from cluster.apis.breakpoints import KnownBreakpoints, split_usage
from cluster.fleet.replicas import Model
from router.http.stream_formats import MESSAGE, NO_ANSWER, PassedEvents, UsageReader, usage_of_input
from router.requests.prompts import PreparedPrompt

WITH_USAGE = (b"event: message_start\n", b"event: message_delta\n")


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class SplitCounts(PassedEvents):
    """Passes on one answer, with the counts that `split_usage` makes of its own; in the place of a
    `router.api.keeper.Keeper`.
    """

    known: KnownBreakpoints
    model: Model
    prompt: PreparedPrompt
    ends: tuple[bytes, ...] = MESSAGE.ends
    read_usage: UsageReader | None = usage_of_input

    def events(self) -> "SplitCounts":
        """What reads the stream on its way to the client."""
        return self

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return those that go on, in whole events."""
        passed = []
        for one in self.split(data):
            self._read(one)
            if one.startswith(WITH_USAGE):
                head, _, fields = one.partition(b"data:")
                one = b"%bdata: %b\n\n" % (head, self._split(fields))
            passed.append(one)
        return b"".join(passed)

    async def whole(self, body: bytes) -> bytes:
        """What the client gets of a whole answer."""
        self.usage = usage_of_input(body)
        return self._split(body) + await self.end(self)

    async def end(self, _: object) -> bytes:
        """Remember what is known now; nothing is held back."""
        keys, namespace = self.prompt.keys, self.model.namespace
        found = (self.usage.cached_tokens if self.usage else None) or 0
        if namespace is None or not len(keys):
            return b""
        for each in self.prompt.breakpoints or ():
            num_blocks = each.tokens // namespace.block_size
            was_held = found >= num_blocks * namespace.block_size
            self.known.add(self.model.name, f"{keys[num_blocks - 1]:016x}", each, was_held, time.time())
        return b""

    def _split(self, body: bytes) -> bytes:
        """A message, or the data of an event."""
        try:
            answer = msgspec.json.decode(body)
            inner = answer.get("message") or answer
            inner["usage"] = split_usage(inner["usage"], self.prompt.breakpoints or ())
        except NO_ANSWER:
            return body.strip()
        return msgspec.json.encode(answer)
