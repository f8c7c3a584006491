"""What operators do with single replicas and blocks, on all routers; and who has done what.

Like all decisions for all routers, none is taken without Redis.
"""

from collections.abc import Awaitable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Path, Query, Request

from cluster.errors import StoreUnavailableError
from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Replica
from cluster.store.operator_commands import MODEL, TENANT
from router.admin.access import DOCUMENTED, who_asks
from router.admin.prefixes import holders_of
from router.answers import Answer, ErrorAnswer, JsonResponse, answers, described
from router.errors import InvalidRequestError, NotDecidedError, NotFoundError, quoted
from router.observe.audit import MAX_ENTRIES, AuditEntry, AuditLog
from router.steer.operator_commands import CommandFollower

T = TypeVar("T")
PrefixKey = Annotated[str, Path(pattern="^[0-9a-fA-F]{16}$", description="16 hexadecimal digits")]
UNDECIDED = {503: described(ErrorAnswer, "Redis does not answer; nothing has changed")}
BOTH = described(ErrorAnswer, "Both a tenant and a model were named")
ERRORS = {404: described(ErrorAnswer, "Nothing of this name is known"), **UNDECIDED}


class DrainAnswer(Answer):
    """What is in force for a replica now."""

    replica: str
    drained: bool
    running: int


class ReplicaResetAnswer(Answer):
    """The blocks of a replica are being read again."""

    replica: str
    reset: float


class CachesResetAnswer(Answer):
    """Nothing that was computed before this time is used again."""

    tenant: str | None
    model: str | None
    reset: float


class PrefixResetAnswer(Answer):
    """Nobody is believed to hold this block, until an engine announces it again."""

    key: str
    reset: float


class AuditAnswer(Answer):
    """The newest first."""

    entries: list[AuditEntry]


def action_routes(fleet: Fleet, commands: CommandFollower, audit: AuditLog) -> APIRouter:
    """The routes that act, and the audit log."""
    routes = APIRouter(**DOCUMENTED)

    @routes.put("/admin/replicas/{replica_id}/drain", **answers(DrainAnswer, ERRORS))
    async def drain(replica_id: str, request: Request) -> JsonResponse:
        """Let a replica have no new requests; those that run finish. It holds until it is taken back, also
        when the replica starts anew."""
        return await set_drained(replica_id, True, request)

    @routes.delete("/admin/replicas/{replica_id}/drain", **answers(DrainAnswer, ERRORS))
    async def undrain(replica_id: str, request: Request) -> JsonResponse:
        """Let a replica have requests again."""
        return await set_drained(replica_id, False, request)

    async def set_drained(replica_id: str, drained: bool, request: Request) -> JsonResponse:
        replica = _known(fleet, replica_id)
        await decided(commands.drain(replica_id, drained))
        action = "drain" if drained else "undrain"
        await audit.write(who_asks(request), action, replica_id, f"{replica.running} requests run here")
        return JsonResponse(DrainAnswer(replica=replica_id, drained=drained, running=replica.running))

    @routes.post("/admin/replicas/{replica_id}/reset", **answers(ReplicaResetAnswer, ERRORS))
    async def reset_replica(replica_id: str, request: Request) -> JsonResponse:
        """Let all routers forget what a replica holds, and read it again from Redis."""
        _known(fleet, replica_id)
        at = await decided(commands.reset_replica(replica_id))
        await audit.write(who_asks(request), "reset_replica", replica_id)
        return JsonResponse(ReplicaResetAnswer(replica=replica_id, reset=at))

    @routes.post("/admin/prefixes/{key}/reset", **answers(PrefixResetAnswer, ERRORS))
    async def reset_prefix(key: PrefixKey, request: Request) -> JsonResponse:
        """Let all routers forget who holds a block, and so everything after it, until an engine announces it
        again or a replica's blocks are read again."""
        number = int(key, 16)
        if not holders_of(fleet, number):
            raise NotFoundError(f"No replica is known to hold the block {quoted(key)}.", "key")
        at = await decided(commands.reset_prefix(number))
        await audit.write(who_asks(request), "reset_prefix", f"{number:016x}")
        return JsonResponse(PrefixResetAnswer(key=f"{number:016x}", reset=at))

    @routes.post("/admin/caches/reset", **answers(CachesResetAnswer, {**ERRORS, 400: BOTH}))
    async def reset_caches(
        request: Request,
        tenant: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
        model: Annotated[str | None, Query(min_length=1, max_length=256)] = None,
    ) -> JsonResponse:
        """Let no request, at any replica, use what was computed before: of a tenant, of a model under all its
        names, or at all. Engines may keep the blocks; nothing leads to them any more."""
        if tenant is not None and model is not None:
            raise InvalidRequestError("Name a tenant, a model, or nothing for all caches.", "tenant")
        if model is not None and model not in fleet.models:
            raise NotFoundError(f"There is no model {quoted(model)}.", "model")
        if model is None:
            targets = ["" if tenant is None else TENANT + tenant]
        else:
            base = fleet.models[model].base
            targets = [MODEL + name for name, one in fleet.models.items() if one.base == base]
        for target in targets:
            at = await decided(commands.reset_caches(target))
        await audit.write(who_asks(request), "reset_caches", targets[0])
        return JsonResponse(CachesResetAnswer(tenant=tenant, model=model, reset=at))

    @routes.get("/admin/audit", **answers(AuditAnswer, UNDECIDED))
    async def entries(limit: Annotated[int, Query(ge=1, le=MAX_ENTRIES)] = 100) -> JsonResponse:
        """What operators have changed, the newest first."""
        return JsonResponse(AuditAnswer(entries=await decided(audit.entries(limit))))

    return routes


async def decided(decision: Awaitable[T]) -> T:
    """The outcome of what needs Redis. Raises `NotDecidedError` when it does not answer."""
    try:
        return await decision
    except StoreUnavailableError as error:
        raise NotDecidedError(
            "Redis does not answer, and without it nothing can be decided for all routers: "
            f"this one goes on as before. ({error})"
        ) from error


def _known(fleet: Fleet, replica_id: str) -> Replica:
    replica = fleet.replicas.get(replica_id)
    if replica is None:
        raise NotFoundError(f"There is no replica {quoted(replica_id)}.", "replica_id")
    return replica
