"""vLLM's HTTP surface (0.32) in front of one simulated engine."""

import dataclasses
import json
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.prompts.tokenizer import PromptTokenizer
from workers.sim.agent_apis import Translation, message_translation, response_translation, scripted
from workers.sim.core import EngineCore
from workers.sim.operator_api import operator_routes, sleep_metric
from workers.sim.replies import Reply
from workers.sim.schema import (
    ApiError,
    Generation,
    Json,
    chat_tokens,
    checked_ids,
    parse_chat,
    parse_completion,
    text_tokens,
)

VLLM_VERSION = "0.32.0"
MAX_BODY_BYTES = 64 * 2**20
GUARDED_PREFIX = "/v1"

Translator = Callable[[Json, PromptTokenizer], Translation]
Parser = Callable[[Json, PromptTokenizer, str, int], Generation]


def build_app(core: EngineCore) -> ASGIApp:
    """The ASGI application of one engine."""
    api = SimApi(core)
    routes = [
        Route("/v1/chat/completions", partial(api.generate, parse_chat), methods=["POST"]),
        Route("/v1/completions", partial(api.generate, parse_completion), methods=["POST"]),
        Route("/v1/messages", api.message, methods=["POST"]),
        Route("/v1/messages/count_tokens", api.count_tokens, methods=["POST"]),
        Route("/v1/responses", partial(api.translate, response_translation), methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/tokenize", api.tokenize, methods=["POST"]),
        Route("/detokenize", api.detokenize, methods=["POST"]),
        Route("/reset_prefix_cache", api.reset_prefix_cache, methods=["POST"]),
        Route("/kv_event_sources", api.kv_event_sources),
        Route("/metrics", api.metrics),
        Route("/version", api.version),
        Route("/health", api.health),
        Route("/ping", api.health, methods=["GET", "POST"]),
    ]
    routes += operator_routes(core)
    api_key = core.settings.api_key
    return Starlette(
        routes=routes,
        middleware=[Middleware(ApiKeyMiddleware, api_key=api_key)] if api_key else [],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},
    )


class SimApi:
    """The routes of one engine."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core

    async def message(self, request: Request) -> ASGIApp:
        """Anthropic's Messages API, whose errors have a form of their own."""
        try:
            return await self.translate(message_translation, request)
        except ApiError as error:
            return JSONResponse({"type": "error", **error.body}, error.status)

    async def count_tokens(self, request: Request) -> Response:
        """The tokens that such a request's prompt would have."""
        try:
            body = await _json_body(request)
            chat, _ = message_translation(body, self._core.tokenizer)
            tokens = len(chat_tokens(chat, self._core.tokenizer))
        except ApiError as error:
            return JSONResponse({"type": "error", **error.body}, error.status)
        about = {"context_management": {"original_input_tokens": tokens}}
        return JSONResponse({"input_tokens": tokens, **about})

    async def models(self, request: Request) -> Response:
        """The model and its adapters."""
        settings, created = self._core.settings, int(self._core.started_at)
        bases: list[Json] = [
            {"id": name, "root": str(settings.model), "parent": None} for name in settings.model_names
        ]
        adapters: list[Json] = [
            {"id": name, "root": name, "parent": settings.model_name} for name in self._core.loras
        ]
        cards = [
            {
                **card,
                "object": "model",
                "created": created,
                "owned_by": "vllm",
                "max_model_len": None if card["parent"] else settings.context_limit,
                "permission": [],
            }
            for card in (*bases, *adapters)
        ]
        return JSONResponse({"object": "list", "data": cards})

    async def tokenize(self, request: Request) -> Response:
        """The token ids of messages or of a prompt."""
        body = await _json_body(request)
        self._model(body)
        tokens = (chat_tokens if "messages" in body else text_tokens)(body, self._core.tokenizer)
        limit = self._core.settings.context_limit
        return JSONResponse(
            {"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": None}
        )

    async def detokenize(self, request: Request) -> Response:
        """The text of token ids."""
        body = await _json_body(request)
        self._model(body)
        return JSONResponse({"prompt": self._core.tokenizer.decode(checked_ids(body.get("tokens")))})

    async def reset_prefix_cache(self, request: Request) -> Response:
        """Forget the cache; refused while requests hold blocks. Its event goes out with the next step."""
        return JSONResponse({"success": self._core.blocks.clear()})

    async def kv_event_sources(self, request: Request) -> Response:
        """Where this engine's cache events can be had, per data-parallel rank."""
        publisher = self._core.publisher
        return JSONResponse({"0": dataclasses.asdict(publisher.config)} if publisher else {})

    async def metrics(self, request: Request) -> Response:
        """Prometheus metrics."""
        return PlainTextResponse(metrics_text(self._core) + sleep_metric(self._core))

    async def version(self, request: Request) -> Response:
        """The version of vLLM whose behaviour is repeated here."""
        return JSONResponse({"version": VLLM_VERSION})

    async def health(self, request: Request) -> Response:
        """Alive."""
        return Response()

    async def generate(self, parse: Parser, request: Request) -> ASGIApp:
        """A completion, of a chat or of a text."""
        body = await _json_body(request)
        model = self._model(body)
        generation = parse(body, self._core.tokenizer, model, self._core.settings.context_limit)
        if parse is parse_chat:
            generation = self._scripted(generation, body)
        return Reply(self._core, generation)

    async def translate(self, translation: Translator, request: Request) -> ASGIApp:
        """An answer of another API, made of the chat completion that the request stands for."""
        body = await _json_body(request)
        model = self._model(body)
        chat, maker = translation(body, self._core.tokenizer)
        generation = parse_chat(chat, self._core.tokenizer, model, self._core.settings.context_limit)
        return Reply(self._core, self._scripted(generation, chat), maker)

    def _scripted(self, generation: Generation, chat: Json) -> Generation:
        core = self._core
        return scripted(generation, chat, core.tokenizer, core.script, core.settings.answer_tokens)

    def _model(self, body: Json) -> str:
        names = self._core.settings.model_names
        name = body.get("model") or names[0]
        if name not in names and name not in self._core.loras:
            message = f"The model `{name}` does not exist. Valid aliases: {', '.join(names)}."
            raise ApiError(message, "model", 404, "NotFoundError")
        return str(name)


def metrics_text(core: EngineCore) -> str:
    """One engine's ``/metrics`` in Prometheus' format, with vLLM's names."""
    settings, scheduler, counters = core.settings, core.scheduler, core.scheduler.counters
    labels = f'{{engine="0",model_name="{settings.model_name}"}}'
    cache = f'{{block_size="{settings.block_size}",engine="0",num_gpu_blocks="{settings.num_blocks}"}}'
    samples = (
        ("vllm:num_requests_running", "gauge", labels, len(scheduler.running)),
        ("vllm:num_requests_waiting", "gauge", labels, len(scheduler.waiting)),
        ("vllm:kv_cache_usage_perc", "gauge", labels, core.blocks.usage),
        ("vllm:prefix_cache_queries_total", "counter", labels, counters.queried_tokens),
        ("vllm:prefix_cache_hits_total", "counter", labels, counters.hit_tokens),
        ("vllm:num_preemptions_total", "counter", labels, counters.preemptions),
        ("vllm:prompt_tokens_total", "counter", labels, counters.queried_tokens),
        ("vllm:generation_tokens_total", "counter", labels, counters.generated_tokens),
        ("vllm:cache_config_info", "gauge", cache, 1),
        ("process_start_time_seconds", "gauge", "", core.started_at),
    )
    return "".join(
        f"# TYPE {name.removesuffix('_total')} {kind}\n{name}{label} {float(value)}\n"
        for name, kind, label, value in samples
    )


class ApiKeyMiddleware:
    """Refuses requests under ``/v1`` that lack the bearer token."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        guarded = scope["type"] == "http" and scope["path"].startswith(GUARDED_PREFIX)
        if guarded and scope["method"] != "OPTIONS" and not self._is_authorised(scope):
            await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_authorised(self, scope: Scope) -> bool:
        header: bytes = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, token = header.partition(b" ")
        return secrets.compare_digest(scheme.capitalize() + b" " + token, self._expected)


async def _json_body(request: Request) -> Json:
    if request.headers.get("content-type", "").lower().partition(";")[0].strip() != "application/json":
        message = "Unsupported Media Type: Only 'application/json' is allowed"
        raise ApiError(message, kind="Bad Request")
    try:
        body = _decoded(await _bounded_body(request))
    except ValueError as error:
        raise ApiError(f"JSON decode error: {error}", kind="Bad Request") from error
    except RecursionError as error:
        raise ApiError("the body is nested too deeply", kind="Bad Request") from error
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object", kind="Bad Request")
    return body


def _decoded(raw: bytes) -> Any:
    """As Python reads it: in other encodings, too, and NaN. Raises `ValueError`."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return json.loads(raw)


async def _bounded_body(request: Request) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise ApiError(
                f"the body exceeds {MAX_BODY_BYTES} bytes", status=413, kind="Request Entity Too Large"
            )
        chunks.append(chunk)
    return b"".join(chunks)


async def _api_error(request: Request, error: Any) -> Response:
    return JSONResponse(error.body, error.status)


async def _http_error(request: Request, error: Any) -> Response:
    return JSONResponse({"detail": error.detail}, error.status_code)
