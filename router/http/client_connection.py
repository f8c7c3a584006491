"""One connection of a client: uvicorn's own, with a direct way for answers, and bounds on what it may cost.

Bounds are on bytes and on time: of a request that arrives, of an answer that is not taken.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from router.errors import ApiError, OverloadedError, RequestTooSlowError, TooManyConnectionsError
from router.http.admission import Claim, Entry
from router.http.request_reader import (
    BODY_BYTES_PER_SECOND,
    HEAD_SECONDS,
    SLICE_BYTES,
    Arrival,
    Bounds,
    RequestReader,
)
from router.http.time_limits import NEVER

CLOSING_SECONDS = 30.0
"""How long the end of an answer may wait for a client, once the connection is to be closed."""


class ClientConnection(RequestReader):
    """uvicorn's connection for HTTP/1.1. It keeps alive, and answers pipelined requests in turn."""

    def __init__(self, bounds: Bounds, *args: Any, **kwargs: Any) -> None:
        super().__init__(bounds, *args, **kwargs)
        self.deadline = NEVER
        """Until when the client must take something of its answers; see `router.http.time_limits.Watched`."""
        self._entry: Entry | None = None
        self._ahead: Claim | None = None
        """Counts `bytes_ahead` while they are many."""

    def on_response_complete(self) -> None:
        """The first of its open requests has its answer. Uvicorn would set a timer for each."""
        request = self._unanswered.popleft()
        request.drop_body()
        if request.expects_continue and self.cycle.more_body and not self._arrival.received:
            self.transport.close()  # the body will not come, and what comes next would be taken for it
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._wait_for_client(CLOSING_SECONDS)
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._arrival.idle(self.timeout_keep_alive)
        if self._unread:
            self._parse()
        else:
            self._note_state()

    def shutdown(self) -> None:
        """The server stops."""
        super().shutdown()
        for request in self._unanswered:
            if request.on_shutdown is not None:
                request.on_shutdown()

    def end_answers(self, why: ApiError) -> None:
        """The server waits no longer."""
        for request in self._unanswered:
            request.end_now(why)

    # ---- called by the transport ----

    def connection_made(self, transport: Any) -> None:
        """Wait for a request, if there is room for one more connection."""
        super().connection_made(transport)
        self._arrival = Arrival(self.flow, self.loop, self._bounds.body_seconds, self._request_is_late)
        host = self.client[0] if self.client is not None else ""
        self._address = self._bounds.admission.address(host)
        self._entry = self._bounds.admission.enter(self._address, self._evict)
        if self._entry is None:
            self._refuse(TooManyConnectionsError("This router has as many connections as it may."))
            return
        self._arrival.head_begins()
        self._arrival.wait()
        self._bounds.watchdog.add(self._arrival)
        self._note_state()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request that waits for its answer; uvicorn tells only the one that came last."""
        super().connection_lost(exc)
        self._leave()
        self._bounds.watchdog.discard(self)
        self._unread = b""
        if self._ahead is not None:
            self._ahead.close()
        for request in self._unanswered:
            request.client_left()
        self._unanswered.clear()

    def pause_writing(self) -> None:
        """More waits for the client than should."""
        super().pause_writing()
        self._wait_for_client(self._bounds.stalled_seconds)
        if self._unanswered:
            self._unanswered[0].write_paused()

    def resume_writing(self) -> None:
        """The client takes data again."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._bounds.watchdog.discard(self)
        if self._unanswered:
            self._unanswered[0].write_resumed()

    # ---- bounds ----

    def _close(self) -> None:
        self.transport.close()
        self._wait_for_client(CLOSING_SECONDS)

    def _wait_for_client(self, seconds: float) -> None:
        self.deadline = self.loop.time() + seconds
        self._bounds.watchdog.add(self)

    def overdue(self) -> None:
        """Called by the watchdog: the client has not taken anything for too long."""
        self._bounds.watchdog.discard(self)
        if self._unanswered:
            self._unanswered[0].client_stalled()
        self.transport.abort()

    def _request_is_late(self) -> None:
        """What has begun to arrive has taken too long: 408, where there is still something to answer."""
        if self._arrival.in_head:
            if self._unanswered or self._outside_body_bytes:
                self._refuse(RequestTooSlowError(f"No whole request within {HEAD_SECONDS:g} s."))
            else:
                self._close()
        elif self.cycle.response_complete:
            self._close()
        else:
            rate = f"{BODY_BYTES_PER_SECOND // 1024} KiB/s"
            error = RequestTooSlowError(
                f"The request body did not arrive within {self._bounds.body_seconds:g} s, "
                f"or came at less than {rate}."
            )
            self._unanswered[-1].close_after()
            self._unanswered[-1].refuse_body(error)

    def _evict(self) -> None:
        """End at once: another connection needs the room."""
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        """Count no more."""
        if self._entry is not None:
            self._bounds.admission.leave(self._entry)
            self._bounds.watchdog.discard(self._arrival)
            self._entry = None

    def _note_state(self) -> None:
        """Whether this connection may be given up for another one has changed, perhaps."""
        arrival, entry = self._arrival, self._entry
        if entry is None:
            return
        if self._unanswered and not (arrival.in_body and len(self._unanswered) == 1):
            entry.wait_among(None)
        elif arrival.in_head or arrival.in_body:
            entry.wait_among(self._address.arriving)
        else:
            entry.wait_among(self._address.idle)

    def _refuse(self, error: ApiError) -> None:
        """End the connection for what has come. Whole requests before it are still answered."""
        self._refused = True
        self._arrival.ends()
        if self._unanswered and self.cycle.more_body:  # the body of the last one is what is wrong
            if len(self._unanswered) == 1 and self.cycle.response_started:
                self._close()
                return
            if len(self._unanswered) > 1:
                self._unanswered.pop().drop_body()
                self.pipeline.popleft()
                self._unanswered[-1].close_after()
                return
        elif self._unanswered:
            self._unanswered[-1].close_after()
            return
        if not self.transport.is_closing():
            self.transport.write(_raw_answer(error, self.server_state.default_headers))
            self._close()

    # ---- called by the reader ----

    def _after_parsing(self) -> None:
        """What is unfinished must go on, and what is held of it counts."""
        arrival = self._arrival
        if not (arrival.in_head or arrival.in_body or self._unanswered):
            arrival.head_begins()  # bytes between requests, and nothing else would end the wait
        if arrival.in_head or arrival.in_body:
            arrival.wait()
        if self._ahead is not None or self._unread or self._outside_body_bytes > SLICE_BYTES:
            self._count_ahead()
        self._note_state()

    def _count_ahead(self) -> None:
        if self._ahead is None:
            self._ahead = Claim(self._bounds.admission, self._address)
        self._ahead.release_body()
        try:
            self._ahead.add(self.bytes_ahead)
        except OverloadedError as error:
            self._unread = b""
            self._refuse(error)


def _raw_answer(error: ApiError, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An answer to what never became a request; the connection ends after it."""
    body = msgspec.json.encode(error.body())
    about = {**error.headers, "content-type": "application/json", "content-length": str(len(body))}
    lines = [STATUS_LINE[error.status], *(b"%b: %b\r\n" % header for header in headers)]
    lines += [f"{name}: {value}\r\n".encode() for name, value in about.items()]
    return b"".join([*lines, b"connection: close\r\n\r\n", body])
