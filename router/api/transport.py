"""Bytes between client and router: reading a bounded body, sending a reply."""

import asyncio
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Send

from router.accounting import RequestRecord
from router.errors import ApiError, BodyTooLargeError, BodyTooSlowError, ClientStalledError


async def read_body(headers: Headers, receive: Receive, limit: int, seconds: float) -> bytes | None:
    """The whole request body of at most ``limit`` bytes; None when the client left before its end.

    Raises `BodyTooLargeError`, as early as the headers say so, and `BodyTooSlowError`.
    """
    if (declared := headers.get("content-length", "")).isdigit() and int(declared) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, limit)
    except TimeoutError as error:
        raise BodyTooSlowError(f"The request body did not arrive within {seconds:g} s.") from error


async def _read(receive: Receive, limit: int) -> bytes | None:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The request body is larger than {limit} bytes.")


def impatient(send: Send, seconds: float) -> Send:
    """The same ``send``, which raises `ClientStalledError` when the client takes nothing for too long."""

    async def send_in_time(message: Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError as error:
            raise ClientStalledError(f"the client took nothing for {seconds:g} s") from error

    return send_in_time


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
