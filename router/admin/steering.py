"""What operators decide while routers run: the policy, and an experiment that compares it with another.

Decisions hold for all routers of the deployment, so without Redis none is taken.
"""

import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request

from cluster.store.steering import Experiment
from router.admin.access import DOCUMENTED, who_asks
from router.admin.actions import UNDECIDED, decided
from router.answers import Answer, JsonResponse, answers, body_of, chosen
from router.errors import InvalidRequestError, quoted
from router.observe.audit import AuditLog
from router.steer.steering import PolicyAnswer, Steering


class PolicyChoice(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a switch."""

    policy: str


class ExperimentPlan(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an experiment. ``name`` draws the conversations that take part."""

    control: str
    share: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "experiment"


class ExperimentAnswer(Answer):
    """What an experiment shows, over all routers."""

    experiment: dict[str, Any] | None


class ExperimentEndedAnswer(ExperimentAnswer):
    """The last figures of an experiment that has just ended."""

    ended: dict[str, Any] | None


def steering_routes(steering: Steering, audit: AuditLog) -> APIRouter:
    """The routes that decide."""
    routes = APIRouter(**DOCUMENTED)

    @routes.get("/admin/policy", **answers(PolicyAnswer))
    async def policy() -> JsonResponse:
        """The policy in force, where it comes from, all that there are, and the experiment."""
        return JsonResponse(steering.describe())

    @routes.put("/admin/policy", **answers(PolicyAnswer, UNDECIDED), openapi_extra=body_of(PolicyChoice))
    async def switch_policy(request: Request) -> JsonResponse:
        """Switch all routers to another policy."""
        choice = await chosen(request, PolicyChoice)
        _require_known(steering, choice.policy, "policy")
        await decided(steering.decide_policy(choice.policy))
        await note(request, "switch_policy", choice.policy)
        return JsonResponse(steering.describe())

    @routes.delete("/admin/policy", **answers(PolicyAnswer, UNDECIDED))
    async def forget_policy(request: Request) -> JsonResponse:
        """Go back to the policy of each router's settings."""
        await decided(steering.decide_policy(""))
        await note(request, "forget_policy", "")
        return JsonResponse(steering.describe())

    @routes.get("/admin/experiment", **answers(ExperimentAnswer))
    async def experiment() -> JsonResponse:
        """What the running experiment shows, over all routers; null when there is none."""
        return JsonResponse(ExperimentAnswer(experiment=await steering.report()))

    @routes.put(
        "/admin/experiment", **answers(ExperimentAnswer, UNDECIDED), openapi_extra=body_of(ExperimentPlan)
    )
    async def start_experiment(request: Request) -> JsonResponse:
        """Give a share of conversations to a control policy, and count from zero."""
        choice = await chosen(request, ExperimentPlan)
        _require_known(steering, choice.control, "control")
        await decided(
            steering.decide_experiment(
                Experiment(name=choice.name, control=choice.control, share=choice.share, started=time.time())
            )
        )
        await note(request, "start_experiment", choice.name, f"{choice.control} for {choice.share:g}")
        return JsonResponse(ExperimentAnswer(experiment=await steering.report()))

    @routes.delete("/admin/experiment", **answers(ExperimentEndedAnswer, UNDECIDED))
    async def end_experiment(request: Request) -> JsonResponse:
        """Give all conversations back to the default policy. The answer holds the last figures."""
        last = await steering.report()
        await decided(steering.decide_experiment(None))
        await note(request, "end_experiment", last["name"] if last else "")
        return JsonResponse(ExperimentEndedAnswer(experiment=None, ended=last))

    async def note(request: Request, action: str, target: str, detail: str = "") -> None:
        await audit.write(who_asks(request), action, target, detail)

    return routes


def _require_known(steering: Steering, name: str, param: str) -> None:
    choices = steering.describe().policies
    if name not in choices:
        raise InvalidRequestError(
            f"There is no policy {quoted(name)}; choose one of {', '.join(choices)}.", param
        )
