"""GET /v1/models: what the fleet serves, known from leases, so that no engine has to be asked."""

from typing import Any

from fastapi import APIRouter, Request

from cluster.fleet.fleet import Fleet
from router.auth import Authenticator


def model_routes(fleet: Fleet, authenticate: Authenticator) -> APIRouter:
    """The route that lists models."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """All models and adapters that clients can name, whether a replica is ready for them or not."""
        authenticate(dict(reversed(request.headers.raw)).get(b"authorization"))
        return {
            "object": "list",
            "data": [
                {
                    "id": model.name,
                    "object": "model",
                    "created": 0,
                    "owned_by": "warmroute",
                    "max_model_len": model.max_model_len or None,
                    "parent": model.replicas[0].lease.model if model.lora else None,
                    "ready_replicas": model.num_ready,
                }
                for model in sorted(fleet.models.values(), key=lambda model: model.name)
            ],
        }

    return routes
