"""Keeps the response of one request before its client knows that it is complete."""

from typing import Any

import msgspec

from cluster.apis.answer_blocks import Json, event
from router.errors import BodyTooLargeError, NotDecidedError, NotFoundError
from router.http.stream_formats import NO_ANSWER, RESPONSE, PassedEvents, usage_of_input
from router.stored.history import StoredResponses, Turn

WITH_RESPONSE = (b"event: response.created\n", b"event: response.in_progress\n", *RESPONSE.ends)
NOT_KEPT = (BodyTooLargeError, NotDecidedError, NotFoundError)
"""Why a response may not be kept after all; its client gets it all the same."""


class Keeper:
    """Of one request."""

    def __init__(self, stored: StoredResponses, turn: Turn) -> None:
        self._stored = stored
        self.turn = turn

    def events(self) -> "KeptEvents":
        """What reads the stream on its way to the client."""
        return KeptEvents(turn=self.turn, ends=RESPONSE.ends, read_usage=usage_of_input)

    async def whole(self, body: bytes) -> bytes:
        """What the client gets of a whole answer."""
        try:
            response = self.turn.shown(msgspec.json.decode(body))
        except NO_ANSWER:
            return body
        return msgspec.json.encode(await self._kept(response))

    async def end(self, events: Any) -> bytes:
        """The event that was held back."""
        if events.final is None:
            return b""
        return event({**events.final, "response": await self._kept(events.final["response"])})

    async def _kept(self, response: Json) -> Json:
        try:
            await self._stored.finish(self.turn, response)
        except NOT_KEPT:
            return {**response, "store": False}
        return response


class KeptEvents(PassedEvents):
    """Shows the client's request in events with the response, and holds the last one back."""

    __slots__ = ("final", "turn")

    def __init__(self, turn: Turn, **options: Any) -> None:
        super().__init__(**options)
        self.turn = turn
        self.final: Json | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return those that go on, in whole events."""
        passed = []
        for one in self.split(data):
            self._read(one)
            if one.startswith(WITH_RESPONSE):
                try:
                    fields = msgspec.json.decode(one.partition(b"data:")[2])
                    fields["response"] = self.turn.shown(fields["response"])
                except NO_ANSWER:
                    continue
                if one.startswith(RESPONSE.ends):
                    self.final = fields
                    continue
                one = event(fields)
            passed.append(one)
        return b"".join(passed)
