"""What operators decide while routers run: the policy, and an experiment that compares it with another.

Decisions hold for all routers of the deployment, so without Redis none is taken.
"""

import time
from collections.abc import Awaitable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request

from cluster.errors import StoreUnavailableError
from cluster.steering import Experiment
from router.api.schema import decode_body
from router.api.transport import read_body
from router.errors import InvalidRequestError, NotDecidedError
from router.settings import RouterSettings
from router.steering import Steering

MAX_BODY_BYTES = 64 * 1024


class PolicyWish(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a switch."""

    policy: str


class ExperimentWish(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an experiment. ``name`` draws the conversations that take part."""

    control: str
    share: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "experiment"


def steering_routes(steering: Steering, settings: RouterSettings) -> APIRouter:
    """The routes that decide."""
    routes = APIRouter()

    @routes.get("/admin/policy")
    async def policy() -> dict[str, Any]:
        """The policy in force, where it comes from, all that there are, and the experiment."""
        return steering.describe()

    @routes.put("/admin/policy")
    async def switch_policy(request: Request) -> dict[str, Any]:
        """Switch all routers to another policy."""
        wish = await _wish(request, PolicyWish)
        _require_known(steering, wish.policy, "policy")
        await _decided(steering.decide_policy(wish.policy))
        return steering.describe()

    @routes.delete("/admin/policy")
    async def forget_policy() -> dict[str, Any]:
        """Go back to the policy of each router's settings."""
        await _decided(steering.decide_policy(""))
        return steering.describe()

    @routes.get("/admin/experiment")
    async def experiment() -> dict[str, Any]:
        """What the running experiment shows, over all routers; null when there is none."""
        return {"experiment": await steering.report()}

    @routes.put("/admin/experiment")
    async def start_experiment(request: Request) -> dict[str, Any]:
        """Give a share of conversations to a control policy, and count from zero."""
        wish = await _wish(request, ExperimentWish)
        _require_known(steering, wish.control, "control")
        await _decided(
            steering.decide_experiment(
                Experiment(name=wish.name, control=wish.control, share=wish.share, started=time.time())
            )
        )
        return {"experiment": await steering.report()}

    @routes.delete("/admin/experiment")
    async def end_experiment() -> dict[str, Any]:
        """Give all conversations back to the default policy. The answer holds the last figures."""
        last = await steering.report()
        await _decided(steering.decide_experiment(None))
        return {"experiment": None, "ended": last}

    async def _wish(request: Request, shape: Any) -> Any:
        raw = await read_body(request.headers, request.receive, MAX_BODY_BYTES, settings.body_seconds)
        return decode_body(raw or b"", shape)[1]

    return routes


def _require_known(steering: Steering, name: str, param: str) -> None:
    choices = steering.describe()["policies"]
    if name not in choices:
        raise InvalidRequestError(f"There is no policy {name!r}; choose one of {', '.join(choices)}.", param)


async def _decided(decision: Awaitable[None]) -> None:
    try:
        await decision
    except StoreUnavailableError as error:
        raise NotDecidedError(
            "Redis does not answer, and without it nothing can be decided for all routers: "
            f"this one goes on as before. ({error})"
        ) from error
