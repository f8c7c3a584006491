"""Keeps the response of one request before its client knows that it is complete."""

from typing import Any

import msgspec

from cluster.apis.answer_blocks import Json, event
from cluster.fleet.replicas import Model
from cluster.prompts.tokenizer import PromptTokenizer
from router.api.continuation import continued, shape_of
from router.errors import BodyTooLargeError, NotDecidedError, NotFoundError
from router.http.admission import Party
from router.http.stream_formats import NO_ANSWER, RESPONSE, PassedEvents, usage_of_input
from router.requests.prompt_threads import PromptBusyError, PromptThreads
from router.requests.schema import Call
from router.stored.history import StoredResponses, Turn

WITH_RESPONSE = (b"event: response.created\n", b"event: response.in_progress\n", *RESPONSE.ends)
NOT_KEPT = (BodyTooLargeError, NotDecidedError, NotFoundError)
"""Why a response may not be kept after all; its client gets it all the same."""


class Keeper:
    """Of one request."""

    def __init__(self, stored: StoredResponses, turn: Turn) -> None:
        self._stored = stored
        self.turn = turn

    async def continued(
        self,
        call: Call,
        model: Model,
        tokenizer: PromptTokenizer | None,
        threads: PromptThreads,
        party: Party,
    ) -> tuple[Call, str]:
        """The call that goes on in the tokens of the turn before, or what keeps it from that."""
        turn = self.turn
        if not turn.asks_tokens or tokenizer is None or not call.tokenisable:
            return call, "unrendered" if turn.before.tokens else ""
        before, num_new, is_cut = turn.before, len(turn.items), turn.before_is_cut
        try:
            turn.held.shape = shape_of(call, tokenizer)
            if not before.tokens:
                return call, "unknown" if turn.ancestors else ""
            return await threads.run(
                party,
                len(call.raw),
                lambda _pause: continued(call, before, is_cut, num_new, tokenizer, model),
            )
        except (PromptBusyError, RecursionError):
            return call, "unrendered"

    def events(self) -> "KeptEvents":
        """What reads the stream on its way to the client."""
        return KeptEvents(turn=self.turn, ends=RESPONSE.ends, read_usage=usage_of_input)

    async def whole(self, body: bytes) -> bytes:
        """What the client gets of a whole answer."""
        try:
            answer = msgspec.json.decode(body)
            self.turn.note(answer)
            response = self.turn.shown(answer)
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
                    if one.startswith(RESPONSE.ends):
                        self.turn.note(fields["response"])
                    fields["response"] = self.turn.shown(fields["response"])
                except NO_ANSWER:
                    continue
                if one.startswith(RESPONSE.ends):
                    self.final = fields
                    continue
                one = event(fields)
            passed.append(one)
        return b"".join(passed)
