"""What an engine's own words say about request and engine, where it answers with a failure."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from router.errors import AttemptFailedError, EngineAnswer, Repeat
from router.http.sse import UNREADABLE

FAILED_STATUSES = {
    429: Repeat.FREELY,
    500: Repeat.ONCE,
    502: Repeat.ONCE,
    503: Repeat.FREELY,
    504: Repeat.NEVER,  # what stands before the engine has waited for too long
}
"""Statuses that do not reach the client while another replica may do better."""
MAX_ERROR_BYTES = 64 * 1024
"""Of a longer error only the beginning is read."""
SHOWN_BYTES = 300
"""How much of it our own messages quote."""
MAX_RETRY_AFTER = 64

_BUSY = re.compile(rb"busy|capacity|queue|backlog|overload|too many", re.IGNORECASE)
"""What engines say in a 503 that is no sign of trouble: they have as many requests as they take."""


def failed_answer(status: int, text: bytes, headers: Mapping[str, str]) -> AttemptFailedError:
    """The failure that an engine has reported, as a whole answer or at the beginning of a stream."""
    is_busy = status == 429 or (status == 503 and _BUSY.search(text) is not None)
    shown = text[:SHOWN_BYTES].decode(errors="replace")
    return AttemptFailedError(
        f"engine answered {status} {shown}",
        replica_down=not is_busy and (status in (502, 503) or not text),
        timed_out=status == 504,
        answer=EngineAnswer(status, _in_api_format(text), headers.get("retry-after", "")[:MAX_RETRY_AFTER]),
        busy=is_busy,
        repeat=FAILED_STATUSES.get(status, Repeat.ONCE),
    )


def _in_api_format(text: bytes) -> dict[str, Any] | None:
    try:
        body = msgspec.json.decode(text)
    except UNREADABLE:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    return body if isinstance(error, dict) and isinstance(error.get("message"), str) else None
