"""The endpoints that generate: one request from its bytes to the last byte of its answer."""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from cluster.fleet import Fleet
from router.accounting import Accounts, RequestRecord
from router.admission import Admission
from router.api.schema import Call
from router.api.transport import error_headers, impatient, read_body, send_reply, start_reply
from router.auth import Authenticator
from router.dispatch import Dispatcher, Exchange
from router.errors import ApiError, ClientStalledError, ReplyBrokenError, UnknownModelError, UpstreamError
from router.prompts import prepare
from router.settings import RouterSettings
from router.sse import DONE, EventSplitter, error_status, parse_usage, usage_of_reply
from router.tokenizers import Tokenizers

PASSED_HEADERS = ("traceparent", "tracestate")
CLIENT_CLOSED_REQUEST = 499


class GenerationEndpoint:
    """ASGI application for one path; shares everything but the parser with its siblings."""

    def __init__(
        self,
        parse: Callable[[bytes], Call],
        fleet: Fleet,
        tokenizers: Tokenizers,
        dispatcher: Dispatcher,
        accounts: Accounts,
        authenticate: Authenticator,
        admission: Admission,
        settings: RouterSettings,
    ) -> None:
        self._parse = parse
        self._fleet = fleet
        self._tokenizers = tokenizers
        self._dispatcher = dispatcher
        self._accounts = accounts
        self._authenticate = authenticate
        self._admission = admission
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers, settings = Headers(scope=scope), self._settings
        send = impatient(send, settings.stalled_client_seconds)
        record = RequestRecord(request_id=_request_id(headers), path=scope["path"])
        try:
            record.tenant = self._authenticate(headers.get("authorization"))
            with self._admission.admitted():
                raw = await read_body(headers, receive, settings.max_body_bytes, settings.body_seconds)
                if raw is None:
                    record.outcome, record.status = "cancelled", CLIENT_CLOSED_REQUEST
                    return
                await _until_disconnect(self._answer(raw, headers, record, send), receive, record)
        except ApiError as error:
            record.outcome = "failed" if error.status >= 500 else "refused"
            record.status, record.error = error.status, error.message
            body = msgspec.json.encode(error.body())
            await send_reply(send, error.status, body, error_headers(error, record))
        except ClientStalledError as error:
            # The answer has begun and cannot be ended properly: the server cuts the connection.
            record.outcome, record.status, record.error = "cancelled", CLIENT_CLOSED_REQUEST, str(error)
            raise
        except BaseException as error:
            record.outcome = record.outcome or "failed"
            record.error = record.error or type(error).__name__
            raise
        finally:
            self._accounts.finish(record)

    async def _answer(self, raw: bytes, headers: Headers, record: RequestRecord, send: Send) -> None:
        call = self._parse(raw)
        record.stream = call.stream
        model = self._fleet.models.get(call.model)
        if model is None:
            raise UnknownModelError(f"The model {call.model!r} does not exist.", param="model")
        record.model = model.name
        prompt = await prepare(call, model, self._tokenizers.get(model.name))
        record.prompt_tokens, record.exact = prompt.prompt_tokens, prompt.exact
        passed = {name: headers[name] for name in PASSED_HEADERS if name in headers}
        exchange = await self._dispatcher.start(
            call, prompt, record, {**passed, "X-Request-Id": record.request_id}
        )
        succeeded = False
        try:
            if call.stream and exchange.reply.status == 200:
                succeeded = await _relay_stream(call, exchange, record, send)
            else:
                succeeded = await _relay_whole(exchange, record, send)
        finally:
            exchange.close(succeeded)
        if record.usage is not None and prompt.exact:
            self._tokenizers.compare(model.name, prompt.prompt_tokens, record.usage.prompt_tokens)


async def _relay_whole(exchange: Exchange, record: RequestRecord, send: Send) -> bool:
    """Pass on an answer that has been read whole. True when the engine succeeded."""
    reply = exchange.reply
    body = reply.first
    record.first_byte = time.monotonic()
    record.usage = usage_of_reply(body) if reply.status == 200 else None
    record.status = reply.status
    record.outcome = "ok" if reply.status < 400 else "refused"
    await send_reply(send, reply.status, body, _reply_headers(reply.content_type, record))
    return reply.status == 200


async def _relay_stream(call: Call, exchange: Exchange, record: RequestRecord, send: Send) -> bool:
    """Pass on a stream event by event. True when it was complete."""
    record.first_byte = time.monotonic()
    record.status = exchange.reply.status
    await start_reply(send, exchange.reply.status, _reply_headers(exchange.reply.content_type, record))
    splitter, done = EventSplitter(), False
    try:
        async for chunk in exchange.reply.chunks():
            passed = []
            for event in splitter.feed(chunk):
                usage, nothing_else = parse_usage(event)
                record.usage = usage or record.usage
                done = done or event.startswith(DONE)
                if error_status(event) is not None:
                    record.error = "the engine reported an error in the stream"
                if call.wants_usage or not nothing_else:
                    passed.append(event)
            if passed:
                await send({"type": "http.response.body", "body": b"".join(passed), "more_body": True})
        if not done:
            raise ReplyBrokenError("the stream ended early")
    except ReplyBrokenError as error:
        record.error = str(error)
        event = msgspec.json.encode(UpstreamError(f"The engine's answer broke off: {error}").body())
        await send(
            {
                "type": "http.response.body",
                "body": b"data: " + event + b"\n\n" + DONE + b"\n\n",
                "more_body": True,
            }
        )
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    record.outcome = "broken" if record.error else "ok"
    return not record.error


async def _until_disconnect(work: Coroutine[Any, Any, None], receive: Receive, record: RequestRecord) -> None:
    """Run the work; when the client leaves first, cancel it and wait until it has cleaned up."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            record.outcome, record.status = "cancelled", CLIENT_CLOSED_REQUEST
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    finally:
        watcher.cancel()
        task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _reply_headers(content_type: str, record: RequestRecord) -> Mapping[str, str]:
    return {
        "content-type": content_type,
        "x-request-id": record.request_id,
        "x-warmroute-replica": record.replica,
        "x-warmroute-expected-cached-tokens": str(record.expected_cached_tokens),
        "x-warmroute-reason": record.reason,
        "x-warmroute-policy": record.policy,
    }


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if 0 < len(given) <= 128 and given.isascii() and given.isprintable() else uuid.uuid4().hex
