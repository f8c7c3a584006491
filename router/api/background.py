"""Responses made in the background: nobody waits for them, and whoever asks later gets their events."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from cluster.apis.answer_blocks import Json, event
from router.errors import ApiError, NotFoundError
from router.http.admission import Party
from router.http.answer_ways import Sink, Source
from router.http.sse import EventFilter, error_status
from router.http.stream_formats import ERROR_EVENT, RESPONSE
from router.stored.history import WORKING, StoredResponses, Turn

FLUSH_SECONDS = 0.25
"""How often what has been generated in the background is written, and read by who waits for it."""
ALIVE_SECONDS = 30.0
"""A response that nobody has worked on for so long has lost its router."""
FAILED = "response.failed"


@dataclass(slots=True, eq=False, repr=False)
class Background:
    """Takes an answer in place of a client, and writes it to the vault piece by piece."""

    stored: StoredResponses
    turn: Turn
    party: Party
    ended_by: ApiError | None = None
    error: str = ""
    _events: EventFilter | None = None
    _unwritten: bytes = b""
    _written: int = 0
    _broken: str | None = None
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    def drop_body(self) -> None:
        """There is none."""

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer can only be an error: streams are asked for."""
        self.error = body.decode(errors="replace")[:1000]

    async def relay(
        self, status: int, headers: Mapping[str, str], source: Source, events: EventFilter
    ) -> str | None:
        """Take the stream."""
        self._events = events
        source.relay(self)
        await self._over.wait()
        return self._broken

    async def end(self, rest: bytes) -> None:
        """Take its end."""
        self._unwritten += rest
        await self.flush()

    def received(self, data: bytes) -> None:
        """Called by the engine's connection."""
        assert self._events is not None
        self._unwritten += self._events.feed(data)

    def took_chunk(self, data: bytes) -> bool:
        """Never: everything is read."""
        return False

    def ended(self, broken: str | None) -> None:
        """Called by the engine's connection."""
        self._broken = broken
        self._over.set()

    async def flush(self) -> None:
        """Write what has come."""
        turn, vault = self.turn, self.stored.vault
        await vault.write(turn.owner, f"{turn.id}.alive", str(time.time()).encode())
        if self._unwritten:
            data, self._unwritten = self._unwritten, b""
            await vault.write(turn.owner, f"{turn.id}.{self._written}", data)
            self._written += 1

    async def flush_until_cancelled(self) -> None:
        """Return when the response has been cancelled or deleted."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()
            with suppress(NotFoundError):
                if (await self.stored.record(self.turn.owner, self.turn.id)).response["status"] in WORKING:
                    continue
            return


class Unread(EventFilter):
    """Lets everything pass."""

    def feed(self, data: bytes) -> bytes:
        """As it is."""
        return data


class EventSource:
    """Feeds a client's connection from an iterator."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self._events = events
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._task: asyncio.Task[None] | None = None

    def relay(self, sink: Sink) -> None:
        """Call the sink with what comes."""
        self._task = asyncio.create_task(self._feed(sink))

    def pause(self) -> None:
        """Wait for `resume`."""
        self._resumed.clear()

    def resume(self) -> None:
        """Go on."""
        self._resumed.set()

    def close(self) -> None:
        """Nobody takes any more."""
        if self._task is not None:
            self._task.cancel()

    async def _feed(self, sink: Sink) -> None:
        broken: str | None = "the stored events cannot be read"
        try:
            with suppress(ApiError):
                async for data in self._events:
                    await self._resumed.wait()
                    sink.received(data)
                broken = None
        finally:
            sink.ended(broken)


async def events_of(
    stored: StoredResponses, owner: str, response_id: str, starting_after: int = -1
) -> AsyncIterator[bytes]:
    """The events of a response that is generated in the background, also those that are still to come. The
    last one of a response that has failed says so, however that came about.
    """
    number, last, rest = 0, -1, EventFilter(keep_usage=True)
    while True:
        [entry] = await stored.vault.read(owner, f"{response_id}.{number}")
        if entry is None:
            response = await retrieved(stored, owner, response_id)
            [entry] = await stored.vault.read(owner, f"{response_id}.{number}")
            if entry is None and response["status"] not in WORKING:
                if response["status"] == "failed" and last + 1 > starting_after:
                    yield event({"type": FAILED, "sequence_number": last + 1, "response": response})
                return
        if entry is None:
            await asyncio.sleep(FLUSH_SECONDS)
            continue
        number += 1
        for one in rest.split(entry.value):
            if one.startswith(ERROR_EVENT) or error_status(one) is not None:
                continue  # the response will have failed
            last = msgspec.json.decode(one.partition(b"data:")[2]).get("sequence_number", last + 1)
            if last > starting_after:
                yield one
            if one.startswith(RESPONSE.ends):
                return


async def retrieved(stored: StoredResponses, owner: str, response_id: str) -> Json:
    """A response; one whose router is gone has failed."""
    response = (await stored.record(owner, response_id)).response
    if response["status"] not in WORKING:
        return response
    [alive] = await stored.vault.read(owner, f"{response_id}.alive")
    if alive is not None and time.time() - float(alive.value) < ALIVE_SECONDS:
        return response
    lost = failed(response, "The router that worked on it is gone.")
    changed = await stored.change(
        owner, response_id, lambda record: None if record.response["status"] not in WORKING else
        msgspec.structs.replace(record, response=lost)
    )  # fmt: skip
    return changed.response


def failed(response: Json, why: str) -> Json:
    """A response of which nothing more comes."""
    return {**response, "status": "failed", "error": {"code": "server_error", "message": why}}


async def forget(stored: StoredResponses, owner: str, response_id: str) -> None:
    """Delete a response with all pieces of its stream."""
    await stored.vault.remove(owner, response_id, f"{response_id}.alive")
    number = 0
    while any(await stored.vault.read(owner, f"{response_id}.{number}")):
        await stored.vault.remove(owner, f"{response_id}.{number}")
        number += 1
