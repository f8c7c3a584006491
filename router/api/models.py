"""``/v1/models``: what the fleet serves, known from leases, so that no engine has to be asked."""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Model
from router.errors import ModelForbiddenError, UnknownModelError
from router.health.new_names import NewNames
from router.tenants.keys import Authenticator, Tenant, credentials


def without_alias(raw: bytes, aliases: Mapping[str, str]) -> bytes:
    """A body with a model's own name in place of an alias; all else in it stays as it is written."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        served = aliases.get(msgspec.json.decode(fields["model"], type=str))
    except (KeyError, ValueError, RecursionError):  # parsing it says what is wrong
        return raw
    return raw if served is None else msgspec.json.encode({**fields, "model": served})


async def known_model(name: str, fleet: Fleet, new_names: NewNames, tenant: Tenant) -> Model:
    """The model of a name. Raises `UnknownModelError` with the names that the tenant may use, and what
    `NewNames.model_of` raises.
    """
    try:
        return await new_names.model_of(name)
    except UnknownModelError:
        raise UnknownModelError(name, sorted(filter(tenant.may_use, fleet.models))) from None


def model_routes(
    fleet: Fleet, new_names: NewNames, authenticate: Authenticator, aliases: Mapping[str, str]
) -> APIRouter:
    """The routes. Models are listed by their aliases too."""
    routes = APIRouter()

    @routes.head("/v1/models", include_in_schema=False)
    @routes.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """All models and adapters that clients can name, whether a replica is ready for them or not."""
        tenant = authenticate(credentials(dict(reversed(request.headers.raw))))
        models = sorted(fleet.models.values(), key=lambda model: model.name)
        shown = {one.name: one for one in models if tenant.may_use(one.name)}
        shown |= {alias: shown[name] for alias, name in aliases.items() if name in shown}
        return {"object": "list", "data": [_described(one, name) for name, one in shown.items()]}

    @routes.head("/v1/models/{name:path}", include_in_schema=False)
    @routes.get("/v1/models/{name:path}")
    async def one_model(request: Request, name: str) -> dict[str, Any]:
        """One of these models."""
        tenant = authenticate(credentials(dict(reversed(request.headers.raw))))
        if not name:
            raise HTTPException(404)
        served = aliases.get(name, name)
        if not tenant.may_use(served):
            raise ModelForbiddenError(name)
        return _described(await known_model(served, fleet, new_names, tenant), name)

    return routes


def _described(model: Model, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "warmroute",
        "max_model_len": model.max_model_len or None,
        "parent": model.replicas[0].lease.model if model.lora else None,
        "ready_replicas": model.num_ready,
    }
