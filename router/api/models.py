"""``/v1/models``: what the fleet serves, known from leases, so that no engine has to be asked."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Model
from router.errors import ModelForbiddenError
from router.health.new_names import NewNames
from router.tenants.keys import Authenticator, credentials


def model_routes(fleet: Fleet, new_names: NewNames, authenticate: Authenticator) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.head("/v1/models", include_in_schema=False)
    @routes.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """All models and adapters that clients can name, whether a replica is ready for them or not."""
        tenant = authenticate(credentials(dict(reversed(request.headers.raw))))
        models = sorted(fleet.models.values(), key=lambda model: model.name)
        return {"object": "list", "data": [_described(one) for one in models if tenant.may_use(one.name)]}

    @routes.head("/v1/models/{name:path}", include_in_schema=False)
    @routes.get("/v1/models/{name:path}")
    async def one_model(request: Request, name: str) -> dict[str, Any]:
        """One of these models."""
        tenant = authenticate(credentials(dict(reversed(request.headers.raw))))
        if not name:
            raise HTTPException(404)
        if not tenant.may_use(name):
            raise ModelForbiddenError(name)
        return _described(await new_names.model_of(name))

    return routes


def _described(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "warmroute",
        "max_model_len": model.max_model_len or None,
        "parent": model.replicas[0].lease.model if model.lora else None,
        "ready_replicas": model.num_ready,
    }
