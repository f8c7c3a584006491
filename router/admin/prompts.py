"""Prompts that requests name: push a version, activate it once it is warm, retire it."""

from collections.abc import Awaitable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Request

from cluster.errors import StoreConflictError
from cluster.fleet.fleet import Fleet
from cluster.store.prompts import Activation, Template
from router.admin.access import DOCUMENTED, who_asks
from router.admin.actions import ERRORS, T, decided
from router.answers import Answer, ErrorAnswer, JsonResponse, answers, body_of, chosen, described
from router.errors import ConflictError, NotFoundError, quoted
from router.health.readiness import model_of
from router.observe.audit import AuditLog
from router.prefixes.catalog import PromptCatalog
from router.prefixes.templates import normalised
from router.prefixes.warmer import PromptWarmer

MAX_BODY_BYTES = 512 * 1024
PromptId = Annotated[str, Path(pattern=r"^[\w.-]{1,64}$")]
WRITING = {**ERRORS, 409: described(ErrorAnswer, "It contradicts what is there")}


class Push(Template, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a push."""

    version: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """The next number where it is not given."""


class Activate(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an activation."""

    version: int
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class PromptAnswer(Answer):
    """One prompt."""

    id: str
    versions: dict[str, Template]
    active: Activation | None
    warmed: int | None = None
    """Copies that were computed before it became active."""


class DifferenceAnswer(Answer):
    """What a version changes, in tokens of prompts that go on with the same word."""

    old_tokens: int
    new_tokens: int
    shared_tokens: int
    """In full blocks from the beginning, and all when both are the same."""


class PromptsAnswer(Answer):
    """All prompts."""

    prompts: list[PromptAnswer]


def prompt_routes(fleet: Fleet, catalog: PromptCatalog, warmer: PromptWarmer, audit: AuditLog) -> APIRouter:
    """The routes of prompts."""
    routes, store = APIRouter(**DOCUMENTED), catalog.store

    @routes.get("/admin/prompts", **answers(PromptsAnswer, ERRORS))
    async def prompts() -> JsonResponse:
        """All prompts with their versions."""
        known = await decided(store.read())
        names = sorted({name for name, _ in known.templates})
        return JsonResponse(PromptsAnswer(prompts=[described_prompt(name) for name in names]))

    @routes.put("/admin/prompts/{prompt_id}", **answers(PromptAnswer, WRITING), openapi_extra=body_of(Push))
    async def push(prompt_id: PromptId, request: Request) -> JsonResponse:
        """Add a version; the same one again changes nothing. The first one is active at once."""
        given = await chosen(request, Push, MAX_BODY_BYTES)
        fields = {name: getattr(given, name) for name in Template.__struct_fields__}
        version = await agreed(store.push(prompt_id, normalised(Template(**fields)), given.version))
        if prompt_id not in store.known.active:
            await agreed(store.activate(prompt_id, version, 1.0))
        await audit.write(who_asks(request), "push_prompt", f"{prompt_id}@{version}")
        return JsonResponse(described_prompt(prompt_id))

    @routes.post(
        "/admin/prompts/{prompt_id}/activate",
        **answers(PromptAnswer, WRITING),
        openapi_extra=body_of(Activate),
    )
    async def activate(prompt_id: PromptId, request: Request) -> JsonResponse:
        """Compute a version wherever the one before is used, then give it to new conversations, or to a share
        of them."""
        choice = await chosen(request, Activate, MAX_BODY_BYTES)
        known = await decided(store.read())
        if (prompt_id, choice.version) not in known.templates:
            raise NotFoundError(f"There is no version {choice.version} of {quoted(prompt_id)}.", "version")
        copies = await warmer.warm_up(prompt_id, choice.version)
        await agreed(store.activate(prompt_id, choice.version, choice.share))
        detail = f"{choice.share:g} of new conversations, {copies} copies warmed"
        await audit.write(who_asks(request), "activate_prompt", f"{prompt_id}@{choice.version}", detail)
        return JsonResponse(msgspec.structs.replace(described_prompt(prompt_id), warmed=copies))

    @routes.get("/admin/prompts/{prompt_id}/difference", **answers(DifferenceAnswer, ERRORS))
    async def difference(prompt_id: PromptId, old: int, new: int, model: str = "") -> JsonResponse:
        """Compare two versions, with a model's tokenizer."""
        known = await decided(store.read())
        for version in (old, new):
            if (prompt_id, version) not in known.templates:
                raise NotFoundError(f"There is no version {version} of {quoted(prompt_id)}.", "version")
        prompts = [await warmer.prompts_of(prompt_id, version, model) for version in (old, new)]
        if prompts[0] is None or prompts[1] is None:
            raise NotFoundError("Its tokens cannot be computed here.", "model")
        one, other = prompts[0], prompts[1]
        shared = next(
            (n for n, (a, b) in enumerate(zip(one.keys, other.keys, strict=False)) if a != b),
            min(len(one.keys), len(other.keys)),
        )
        block_size = model_of(fleet, model).replicas[0].lease.block_size
        tokens = one.prompt_tokens if old == new else shared * block_size
        return JsonResponse(
            DifferenceAnswer(
                old_tokens=one.prompt_tokens, new_tokens=other.prompt_tokens, shared_tokens=tokens
            )
        )

    @routes.delete("/admin/prompts/{prompt_id}/{version}", **answers(PromptAnswer, WRITING))
    async def retire(prompt_id: PromptId, version: int, request: Request) -> JsonResponse:
        """Remove a version that is not active."""
        await agreed(store.retire(prompt_id, version))
        await audit.write(who_asks(request), "retire_prompt", f"{prompt_id}@{version}")
        return JsonResponse(described_prompt(prompt_id))

    async def agreed(writing: Awaitable[T]) -> T:
        try:
            return await decided(writing)
        except StoreConflictError as error:
            raise ConflictError(f"It cannot be done: {error}.") from error

    def described_prompt(prompt_id: str) -> PromptAnswer:
        known = store.known
        versions = {str(one): known.templates[prompt_id, one] for one in known.versions(prompt_id)}
        return PromptAnswer(id=prompt_id, versions=versions, active=known.active.get(prompt_id))

    return routes
