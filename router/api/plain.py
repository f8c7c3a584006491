"""What is answered without an engine as engines answer it, and what is said where there is nothing."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from cluster.fleet.fleet import Fleet
from router.answers import Answer, JsonResponse, answers
from router.errors import quoted
from router.requests.endpoints import ENDPOINTS

ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
DOWN: dict[int | str, dict[str, Any]] = {503: {"description": "No replica takes requests"}}
ANSWERED_HERE = ("/v1/models", "/health", "/ping", "/version")


class VersionAnswer(Answer):
    """The version of Warmroute."""

    version: str


def plain_routes(fleet: Fleet) -> APIRouter:
    """``/health``, ``/ping`` and ``/version``, as whatever watched over an engine asks for them."""
    routes = APIRouter()

    @routes.head("/health", include_in_schema=False)
    @routes.get("/-/healthz", include_in_schema=False)  # KubeRay asks so
    @routes.get("/health", response_class=Response, responses=DOWN)
    @routes.post("/ping", include_in_schema=False)
    @routes.get("/ping", response_class=Response, responses=DOWN)
    async def health() -> Response:
        """Whether any replica takes requests: 200, otherwise 503; no body, as vLLM answers."""
        return Response(status_code=200 if any(model.ready for model in fleet.models.values()) else 503)

    @routes.get("/version", **answers(VersionAnswer))
    async def warmroute_version() -> JsonResponse:
        """The version of Warmroute."""
        return JsonResponse(VersionAnswer(version=version("warmroute")))

    return routes


def misspelt_routes() -> Iterator[Route]:
    """Paths that a slash has been put behind: clients are told, where others would be redirected."""

    async def refuse(_request: Request) -> Response:
        raise HTTPException(404)

    for path in (*ENDPOINTS, *ANSWERED_HERE):
        yield Route(f"{path}/", refuse, methods=ALL_METHODS)


def nothing_at(path: str) -> str:
    """What a client is told that asks for a path that does not exist: which one it may have meant, or what
    there is.
    """
    known = (*ENDPOINTS, *ANSWERED_HERE)
    meant = next((candidate for candidate in _meant_by(path) if candidate in known), None)
    hint = f"Use {meant}." if meant else f"There are {', '.join(known)}."
    return f"There is nothing at {quoted(path)}. {hint}"


def _meant_by(path: str) -> Iterator[str]:
    """The path without doubled parts and with another beginning, as base URLs of clients go wrong."""
    path = re.sub("/{2,}", "/", path).rstrip("/")
    path = re.sub("^(/v1)+(?=/)", "/v1", path)
    yield from (path, f"/v1{path}", path.removeprefix("/v1"))
