"""How fast a request must come: its head within some seconds, its body at a lowest rate and within a time."""

from asyncio import AbstractEventLoop
from typing import Protocol

from router.errors import RequestTooSlowError
from router.http.time_limits import NEVER

HEAD_SECONDS = 10.0
"""From the opening of a connection, or the first byte of a later request, to the end of its headers."""
BODY_GRACE_SECONDS = 5.0
BODY_BYTES_PER_SECOND = 16 * 1024
"""What a body must have brought on average, once the grace is over."""


def body_deadline(began: float, received: int, seconds: float) -> float:
    """Until when more must have come of a body that may take ``seconds`` in all."""
    return began + min(seconds, BODY_GRACE_SECONDS + received / BODY_BYTES_PER_SECOND)


def too_slow(seconds: float) -> RequestTooSlowError:
    """What is said of a body that has missed its deadline."""
    return RequestTooSlowError(
        f"The request body did not arrive within {seconds:g} s, or came at less than "
        f"{BODY_BYTES_PER_SECOND // 1024} KiB/s."
    )


class Connection(Protocol):
    """What requests arrive on."""

    @property
    def reading_is_paused(self) -> bool:
        """Whether nothing is read, so that a client cannot be late."""

    def request_is_late(self) -> None:
        """What has begun to arrive has taken too long."""


class Arrival:
    """Watches what arrives on one connection; see `router.http.time_limits.Watched`.

    A whole request in one read sets no deadline: only what is unfinished after a read does.
    """

    __slots__ = (
        "_began",
        "_body_seconds",
        "_connection",
        "_loop",
        "deadline",
        "in_body",
        "in_head",
        "received",
    )

    def __init__(self, connection: Connection, loop: AbstractEventLoop, body_seconds: float) -> None:
        self._connection = connection
        self._loop = loop
        self._body_seconds = body_seconds
        self._began = 0.0
        self.deadline = NEVER
        self.in_head = self.in_body = False
        self.received = 0
        """Bytes of the body that arrives."""

    def head_begins(self) -> None:
        """The first byte of a request, or a connection that has none yet."""
        self.in_head = True
        self.deadline = NEVER

    def body_begins(self) -> None:
        """A head is complete."""
        self.in_head, self.in_body = False, True
        self.received = 0
        self.deadline = NEVER

    def ends(self) -> None:
        """Nothing is awaited until the next request begins."""
        self.in_head = self.in_body = False
        self.deadline = NEVER

    def idle(self, seconds: float) -> None:
        """Everything has its answer; unless something arrives already, wait so long for more."""
        if not (self.in_head or self.in_body):
            self.deadline = self._loop.time() + seconds

    def wait(self) -> None:
        """What is unfinished after a read must go on; repeating this changes nothing."""
        if self.deadline == NEVER:
            self._count_from_now()

    def _count_from_now(self) -> None:
        self._began = self._loop.time()
        if self.in_head:
            self.deadline = self._began + HEAD_SECONDS
        else:
            self.deadline = body_deadline(self._began, self.received, self._body_seconds)

    def overdue(self) -> None:
        """Called by the watchdog. More of a body may have come since the deadline was set."""
        if self._connection.reading_is_paused:
            self._count_from_now()
            return
        if self.in_body:
            self.deadline = body_deadline(self._began, self.received, self._body_seconds)
            if self.deadline >= self._loop.time():
                return
        self.deadline = NEVER
        self._connection.request_is_late()
