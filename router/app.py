"""Puts a router together: an ASGI application, to be served on `router.http.client_connection`."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from cluster.fleet.fleet import Fleet
from cluster.process.tasks import Kept, cancel_and_wait
from cluster.store.operator_commands import CommandStore
from cluster.store.prompts import PromptStore
from cluster.store.rights import RightsCheck
from cluster.store.steering import SteeringStore
from cluster.store.store import connect
from cluster.sync.follower import Follower
from cluster.sync.gossip import Gossip
from cluster.sync.index_watchdog import IndexWatchdog
from policies.catalog import POLICIES
from router.admin.access import Access, AdminGate
from router.admin.actions import action_routes
from router.admin.api import admin_routes
from router.admin.blocks import block_routes
from router.admin.history import history_routes
from router.admin.overview import Overview
from router.admin.page import page_routes
from router.admin.prefixes import prefix_routes
from router.admin.prompts import prompt_routes
from router.admin.requests import request_routes
from router.admin.steering import steering_routes
from router.admin.stream import Stream, stream_routes
from router.api.dispatch import Dispatcher
from router.api.generate import GenerationEndpoint, RouterApplication
from router.api.models import model_routes
from router.api.plain import misspelt_routes, nothing_at, plain_routes
from router.errors import MAX_QUOTED, ApiError, InvalidRequestError, UnknownPathError, quoted
from router.explain.conversations import Conversations
from router.explain.explainer import Explainer
from router.health.engine_liveness import EngineLiveness
from router.health.health import Health
from router.health.new_names import NewNames
from router.health.probes import Probes
from router.health.readiness import Readiness
from router.history.history import History
from router.history.history_sharing import HistorySharing
from router.history.history_store import HistoryStore
from router.history.savings import Savings
from router.observe.accounting import Accounts
from router.observe.audit import AuditLog
from router.observe.explanations import Explanations
from router.observe.metrics import Metrics
from router.prefixes.catalog import PromptCatalog
from router.prefixes.warmer import PromptWarmer
from router.requests.endpoints import ENDPOINTS
from router.requests.prompt_threads import PromptThreads
from router.requests.tokenizers import Tokenizers
from router.settings import RouterSettings
from router.steer.steering import Steering
from router.tenants.cache_scopes import CacheScopes
from router.tenants.key_file import KeyFile
from router.tenants.keys import authenticator
from router.upstream.client import Upstream

if TYPE_CHECKING:
    from router.observe.tracing import Tracing
from router.steer.operator_commands import CommandFollower


def create_app(settings: RouterSettings) -> RouterApplication:
    """A router as an ASGI application. It connects to Redis when its lifespan starts."""

    @asynccontextmanager
    async def lifespan(app: RouterApplication) -> AsyncIterator[None]:
        fleet = Fleet(settings.max_blocks)
        redis = connect(settings.redis_url)
        router_id = uuid.uuid4().hex
        upstream = Upstream(settings)
        liveness = EngineLiveness(upstream)
        follower = Follower(
            redis, settings.keys, fleet, settings.heartbeat_seconds, router_id, liveness.lives
        )
        following = Kept(follower.run)
        gossip = Gossip(redis, settings.keys, fleet, router_id)
        probes = Probes(fleet, upstream)
        new_names = NewNames(fleet, upstream)
        tokenizers = Tokenizers(fleet, upstream, settings.tokenizers, settings.chat_options)
        scopes = CacheScopes()
        commands = CommandFollower(CommandStore(redis, settings.keys), fleet, follower, scopes)
        index_watchdog = IndexWatchdog(
            redis, settings.keys, fleet, follower, following.restart, lambda: len(commands.reset_prefixes)
        )
        rights = RightsCheck(redis, settings.keys, fleet.store, router_id)
        steering = Steering(
            SteeringStore(redis, settings.keys), POLICIES, settings.policy, router_id, commands
        )
        health = Health(fleet, tokenizers, probes, steering)
        readiness = Readiness(fleet, follower, steering, tokenizers)
        explainer = Explainer(fleet, Conversations(settings.remembered_bytes))
        history_store = HistoryStore(redis, settings.keys, router_id)
        savings = Savings(history_store)
        history = History(savings)
        metrics = Metrics(fleet, health, history.tallies)
        sharing = HistorySharing(history, savings, history_store, router_id)
        explanations = Explanations(redis, settings.keys, router_id)
        accounts = Accounts(explainer, metrics, explanations, history)
        key_file = KeyFile(settings.api_keys_file) if settings.api_keys_file else None
        authenticate = authenticator(
            settings.api_keys,
            settings.share_cache,
            settings.hide_cache_headers,
            settings.cache_seconds,
            (lambda: key_file.tenants) if key_file else None,
        )
        prompts = PromptCatalog(PromptStore(redis, settings.keys))
        tracing = _tracing(settings, router_id)
        dispatcher = Dispatcher(fleet, upstream, probes, steering, explainer, settings)
        threads = PromptThreads()
        for path, described in ENDPOINTS.items():
            endpoint = GenerationEndpoint(
                described,
                fleet,
                new_names,
                tokenizers,
                dispatcher,
                accounts,
                authenticate,
                scopes,
                prompts,
                tracing,
                threads,
                settings,
            )
            app.endpoints[path] = endpoint
            app.router.routes.append(Route(path, endpoint, methods=["POST"]))  # refuses other methods
        background: set[asyncio.Task[None]] = set()
        if settings.stored_responses != "off":
            from router.api.stored import keep_responses

            keep_responses(app, redis, background)
        app.router.routes.extend(misspelt_routes())
        warmer = PromptWarmer(
            prompts, fleet, tokenizers, upstream, scopes, threads, redis, settings.keys, router_id
        )
        audit = AuditLog(redis, settings.keys, router_id)
        overview = Overview(router_id, fleet, steering, health, probes, history)
        stream = Stream(overview, explanations, audit)
        for routes in (
            model_routes(fleet, new_names, authenticate, settings.model_aliases),
            plain_routes(fleet),
            admin_routes(
                router_id, fleet, follower, tokenizers, health, readiness, upstream, metrics, overview
            ),
            block_routes(fleet, follower, commands),
            steering_routes(steering, audit),
            stream_routes(overview, stream),
            request_routes(explanations),
            prefix_routes(fleet, accounts.breakpoints),
            history_routes(history, savings, history_store),
            action_routes(fleet, commands, audit),
            prompt_routes(fleet, prompts, warmer, audit),
            page_routes(),
        ):
            app.router.routes.extend(routes.routes)  # including them analyses each again
        app.state.overview, app.state.stream = overview, stream
        app.state.fleet, app.state.readiness = fleet, readiness
        parts = (
            gossip,
            liveness,
            new_names,
            index_watchdog,
            rights,
            readiness,
            steering,
            tokenizers,
            probes,
            metrics,
            explanations,
            overview,
            stream,
            sharing,
            prompts,
            warmer,
            *((key_file,) if key_file else ()),
        )
        kept = (following, *(Kept(part.run) for part in parts))
        tasks = [asyncio.create_task(part.run()) for part in kept]
        try:
            await readiness.wait(settings.ready_seconds)
            yield
        finally:
            await cancel_and_wait(*background)
            await cancel_and_wait(*tasks)
            threads.close()
            await sharing.close()
            await gossip.close()
            await upstream.close()
            await redis.aclose()
            if tracing is not None:
                await tracing.close()

    app = RouterApplication(
        settings,
        title="Warmroute",
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        description="Routes each conversation to the replica that still holds its KV blocks.",
        lifespan=lifespan,
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            RequestValidationError: _parameter_error,
        },
    )
    app.add_middleware(AdminGate, access=Access.of(settings))
    return app


def _tracing(settings: RouterSettings, router_id: str) -> "Tracing | None":
    """Where traces are sent, if anywhere: its packages are optional, and settings have made sure of them."""
    if not settings.otlp_endpoint:
        return None
    from router.observe.tracing import send_to_collector

    return send_to_collector(settings.otlp_endpoint, settings.otlp_sample, router_id)


async def _api_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _parameter_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = str(first["loc"][-1])[:MAX_QUOTED]
    return JSONResponse(InvalidRequestError(f"{param}: {first['msg']}.", param).body(), status_code=400)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = quoted(request.scope["path"])  # `request.url` would remember it
    message = (
        f"{request.method} is not allowed for {path}."
        if error.status_code == 405
        else nothing_at(request.scope["path"])
    )
    return JSONResponse(UnknownPathError(error.status_code, message).body(), error.status_code, error.headers)
