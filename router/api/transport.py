"""Bytes between client and router: reading a bounded body, sending a reply."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import Receive, Send

from router.accounting import RequestRecord
from router.errors import ApiError, BodyTooLargeError


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes | None:
    """The whole request body of at most ``limit`` bytes; None when the client left before its end.

    Raises `BodyTooLargeError`, as early as the headers say so.
    """
    too_large = BodyTooLargeError(f"The request body is larger than {limit} bytes.")
    if (declared := headers.get("content-length", "")).isdigit() and int(declared) > limit:
        raise too_large
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def start_reply(send: Send, status: int, headers: Mapping[str, str]) -> None:
    """Send status and headers; the body follows."""
    encoded = [
        (name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()
    ]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def send_reply(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Send a whole reply."""
    await start_reply(send, status, {**headers, "content-length": str(len(body))})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def error_headers(error: ApiError, record: RequestRecord) -> Mapping[str, str]:
    """Headers of an error reply."""
    headers = {"content-type": "application/json", "x-request-id": record.request_id}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return headers
