"""A request for an engine, from its bytes to the last byte of its answer."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.fleet.fleet import Fleet
from router.answers import schemas
from router.api.breakpoints import SplitCounts
from router.api.cors import Cors
from router.api.dispatch import Dispatcher, Exchange
from router.api.documented import public_paths
from router.api.models import known_model, without_alias
from router.errors import MAX_QUOTED, ApiError, ClientStalledError, ModelForbiddenError, UpstreamError
from router.explain.conversations import MAX_REQUEST_BYTES
from router.health.new_names import NewNames
from router.history.record import RequestRecord
from router.http.admission import Admission, max_connections
from router.http.answer_ways import Client
from router.http.client_request import ClientRequest, client_request
from router.http.sse import STREAM_HEADERS, usage_of_reply
from router.http.stream_formats import NO_ANSWER, TranslatedEvents
from router.observe.accounting import Accounts
from router.prefixes.catalog import PromptCatalog
from router.requests.agent_calls import fitted
from router.requests.bodies import in_session, parse_body, rewritten
from router.requests.endpoints import Endpoint
from router.requests.prompt_threads import PromptThreads
from router.requests.prompts import guess, prepare
from router.requests.schema import (
    ENGINE_HEADERS,
    MESSAGES_PATH,
    TRACE_HEADERS,
    Call,
    chosen_headers,
)
from router.requests.tokenizers import Tokenizers
from router.settings import RouterSettings
from router.tenants.cache_scopes import CacheScopes
from router.tenants.keys import Authenticator, credentials
from router.upstream.reply import UpstreamReply

if TYPE_CHECKING:
    from router.api.keeper import Keeper
    from router.observe.tracing import Tracing

CLIENT_CLOSED_REQUEST = 499


@dataclass(slots=True, eq=False, repr=False)
class GenerationEndpoint:
    """ASGI application for one path; shares everything but its line of the table with its siblings."""

    endpoint: Endpoint
    fleet: Fleet
    new_names: NewNames
    tokenizers: Tokenizers
    dispatcher: Dispatcher
    accounts: Accounts
    authenticate: Authenticator
    scopes: CacheScopes
    prompts: PromptCatalog
    tracing: "Tracing | None"
    threads: PromptThreads
    settings: RouterSettings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = dict(reversed(scope["headers"]))  # the first of several counts
        client = client_request(scope)
        client_id = _client_id(headers)
        request_id = f"{client_id}-{token_hex(8)}" if client_id else token_hex(16)
        record = RequestRecord(request_id, scope["path"], client_id=client_id)
        if self.tracing is not None:
            record.trace = self.tracing.begin(headers)
        try:
            await self._answer_or_refuse(client, headers, record)
        except ClientStalledError as error:
            record.outcome, record.status, record.error = "cancelled", CLIENT_CLOSED_REQUEST, str(error)
        except BaseException as error:
            record.outcome = record.outcome or "failed"
            record.error = record.error or type(error).__name__
            raise
        finally:
            client.claim.close()
            self.accounts.finish(record)

    async def _answer_or_refuse(
        self, client: ClientRequest, headers: dict[bytes, bytes], record: RequestRecord
    ) -> None:
        try:
            tenant = self.authenticate(credentials(headers))
            record.tenant, record.rights = tenant.name, tenant
            stayed = False
            if (raw := await client.read_body(self.settings.max_body_bytes)) is not None:
                client.claim.admit(tenant.name)
                answering = self._answer(raw, headers, record, client)
                del raw  # see `_answer`
                stayed = await client.stays_for(answering)
            if not stayed:
                record.outcome, record.status = "cancelled", CLIENT_CLOSED_REQUEST
        except ApiError as error:
            record.outcome, record.status, record.error = error.outcome, error.status, error.message
            about = {"content-type": "application/json", **_request_ids(record), **error.headers}
            body = self.endpoint.error_body(error.status, error.body())
            await client.reply(error.status, about, msgspec.json.encode(body))

    async def _answer(
        self,
        raw: bytes,
        headers: dict[bytes, bytes],
        record: RequestRecord,
        client: Client,
        kept: "Keeper | None" = None,
    ) -> None:
        party, endpoint = client.party, self.endpoint
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        if self.settings.model_aliases and endpoint.read is not None:
            replace = partial(without_alias, aliases=self.settings.model_aliases)
            raw = await rewritten(raw, replace, self.threads, party)
        if endpoint.named_prompts and self.prompts.store.known.templates and b'"prompt"' in raw:
            expand = partial(self.prompts.expand, endpoint.path, record.rights)
            raw, record.rights, record.prompt = await rewritten(raw, expand, self.threads, party)
        scope = self.scopes.of(record.rights)
        call = await parse_body(endpoint.path, raw, scope, self.threads, party, content_type)
        del raw  # nothing here holds a long body once its answer streams
        call = in_session(call, headers)
        record.stream, record.asked_model = call.stream, call.model[:MAX_QUOTED]
        model = self.fleet.models.get(call.model) or await known_model(
            call.model, self.fleet, self.new_names, record.rights
        )
        if not call.model:
            call = msgspec.structs.replace(call, model=model.name)
        record.model = model.name
        if not record.rights.may_use(model.name):
            raise ModelForbiddenError(model.name)
        if endpoint.keyed:
            began = time.monotonic()
            tokenizer = self.tokenizers.for_call(model.name, call, call.conversation_key)
            if tokenizer is not None and call.path == MESSAGES_PATH:
                call = fitted(call, tokenizer)
            if kept is not None:
                call, record.continuation = await kept.continued(call, model, tokenizer, self.threads, party)
            prompt = await prepare(call, model, tokenizer, self.threads, party)
            record.prepare_seconds = time.monotonic() - began
        else:
            prompt = guess(call, bytes_per_token=endpoint.bytes_per_token)
        record.prompt_tokens, record.exact = prompt.prompt_tokens, prompt.exact
        passed = {"X-Request-Id": record.request_id, **chosen_headers(headers, ENGINE_HEADERS)}
        if record.trace is not None:
            passed |= record.trace.headers()
        else:
            passed |= chosen_headers(headers, TRACE_HEADERS)
        keeper: Keeper | SplitCounts | None = kept
        if prompt.breakpoints is not None:
            keeper = SplitCounts(known=self.accounts.breakpoints, model=model, prompt=prompt, keep_usage=True)
        exchange = await self.dispatcher.start(call, prompt, record, passed)
        if exchange.is_chat and endpoint.maker is not None:
            exchange.maker = endpoint.maker(call.raw)
        if call.stream and len(call.raw) > MAX_REQUEST_BYTES:
            call = call.without_body()
            client.drop_body()
        succeeded = False
        try:
            if call.stream and exchange.reply.is_stream:
                succeeded = await _relay_stream(endpoint, call, exchange, record, client, keeper)
            else:
                succeeded = await _relay_whole(endpoint, exchange, record, client, keeper)
        finally:
            exchange.close(succeeded)
        if record.usage is not None and call.token_ids:
            if record.usage.prompt_tokens != len(call.token_ids):
                record.continuation = "ignored"
        elif record.usage is not None and prompt.exact and call.raw:
            self.tokenizers.compare(model.name, call, prompt, record.usage.prompt_tokens)


async def _relay_whole(
    endpoint: Endpoint,
    exchange: Exchange,
    record: RequestRecord,
    client: Client,
    keeper: "Keeper | SplitCounts | None",
) -> bool:
    """Pass on an answer that has been read whole. True when the engine succeeded."""
    reply = exchange.reply
    record.first_byte = time.monotonic()
    body, maker = reply.first, exchange.maker
    read_usage = endpoint.usage if maker is None else usage_of_reply
    record.usage = read_usage(body) if read_usage and reply.status == 200 else None
    record.status = reply.status
    record.outcome = "ok" if reply.status < 400 else "refused"
    if maker is not None and reply.status == 200:
        try:
            body = msgspec.json.encode(maker.whole(msgspec.json.decode(body)))
        except NO_ANSWER as error:
            raise UpstreamError("The engine's answer is no chat completion.") from error
    elif reply.status >= 400:
        body = endpoint.engine_error(reply.status, body)
    if keeper is not None and reply.status == 200:
        body = await keeper.whole(body)
    await client.reply(reply.status, _reply_headers(reply, record), body)
    return reply.status == 200


async def _relay_stream(
    endpoint: Endpoint,
    call: Call,
    exchange: Exchange,
    record: RequestRecord,
    client: Client,
    keeper: "Keeper | SplitCounts | None",
) -> bool:
    """Pass on a stream event by event. True when it was complete."""
    reply = exchange.reply
    record.first_byte = time.monotonic()
    record.status = reply.status
    assert endpoint.stream is not None
    events, rest = keeper.events() if keeper else endpoint.events(call.wants_usage), b""
    try:
        headers = {**_reply_headers(reply, record), **STREAM_HEADERS}
        passes = events
        if exchange.maker is not None:
            passes = TranslatedEvents(maker=exchange.maker, reader=events)
        broken = await client.relay(reply.status, headers, reply, passes)
    finally:
        record.usage = events.usage
        if events.reported_error:
            record.error = "the engine reported an error in the stream"
    if broken is None and not events.done:
        broken = "the stream ended early"
    if broken is not None:
        record.error = broken
        error = client.ended_by or UpstreamError(f"The engine's answer broke off: {broken}")
        rest = endpoint.stream.broken_off(error)
    elif keeper is not None:
        rest = await keeper.end(events)
    await client.end(rest)
    if client.ended_by is not None:
        record.outcome = client.ended_by.outcome
    else:
        record.outcome = "broken" if record.error else "ok"
    return not record.error


def _reply_headers(reply: UpstreamReply, record: RequestRecord) -> Mapping[str, str]:
    headers = {**reply.headers, **_request_ids(record)}
    if record.prompt:
        headers["x-warmroute-prompt"] = record.prompt
    if not record.rights.sees_caches:
        return headers
    return headers | {
        "x-warmroute-replica": record.replica,
        "x-warmroute-expected-cached-tokens": str(record.expected_cached_tokens),
        "x-warmroute-reason": record.reason,
        "x-warmroute-policy": record.policy,
    }


def _request_ids(record: RequestRecord) -> dict[str, str]:
    """What its client called the request, and the id by which it is known here and at the engine."""
    if record.client_id:
        return {"x-request-id": record.client_id, "x-warmroute-request-id": record.request_id}
    return {"x-request-id": record.request_id}


def _client_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if 0 < len(given) <= 128 and given.isascii() and given.isprintable() else ""


class RouterApplication(FastAPI):
    """FastAPI, whose middleware is not asked about requests for tokens; and the bounds of its connections."""

    def __init__(self, settings: RouterSettings, **options: Any) -> None:
        super().__init__(**options)
        self.settings = settings
        connections = max_connections()
        self.admission = Admission(
            min(settings.max_open_requests, connections), settings.max_body_bytes_in_flight, connections
        )
        self._cors = Cors(settings.cors_origins) if settings.cors_origins else None
        self.endpoints: dict[str, ASGIApp] = {}
        """What answers a POST to these paths."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._cors and scope["type"] == "http" and await self._cors.answers(scope, receive, send):
            return
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self.endpoints:
            await self.endpoints[scope["path"]](scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = super().openapi()
        document["components"].setdefault("schemas", {}).update(schemas())
        document["paths"].update(public_paths())
        return document
