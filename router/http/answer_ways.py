"""Where answers come from and where they go, as far as those who pass them on need to know."""

from collections.abc import Mapping
from typing import Protocol

from router.errors import ApiError
from router.http.admission import Party
from router.http.sse import EventFilter


class Sink(Protocol):
    """Takes a body piece by piece, as it arrives."""

    def received(self, data: bytes, /) -> None:
        """Some bytes; never none."""

    def took_chunk(self, data: bytes, /) -> bool:
        """Whether a chunk could be taken as it was framed; else it comes as `received`."""

    def ended(self, broken: str | None, /) -> None:
        """The body is over, or broke off for this reason."""


class Source(Protocol):
    """Where an engine's answer comes from: `router.upstream.reply.UpstreamReply`."""

    def relay(self, sink: Sink, /) -> None:
        """Call the sink with what comes."""

    def pause(self) -> None:
        """Stop reading from the engine until `resume`."""

    def resume(self) -> None:
        """Go on after `pause`."""


class Client(Protocol):
    """Whoever gets an answer: a `ClientRequest`, or what stands for a client that does not wait for it."""

    ended_by: ApiError | None

    @property
    def party(self) -> Party:
        """Whose share of the router's bounds the work counts in."""

    def drop_body(self) -> None:
        """Nobody needs the request's body any more."""

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Take a whole answer."""

    async def relay(
        self, status: int, headers: Mapping[str, str], source: Source, events: EventFilter
    ) -> str | None:
        """Take what the filter lets pass of a stream; why that broke off, or None. Then comes `end`."""

    async def end(self, rest: bytes) -> None:
        """Take the rest."""
