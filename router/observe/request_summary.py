"""What the admin API shows of one finished request."""

import math

import msgspec
import numpy as np

from router.answers import Answer
from router.explain.misses import Considered, Divergence, Misses, Reason
from router.history.record import RequestRecord

MAX_CANDIDATES = 16


class RequestSummary(Answer):
    """What became of one request."""

    request_id: str
    time: float
    path: str
    tenant: str
    model: str
    asked_model: str
    replica: str
    policy: str
    arm: str
    reason: str
    outcome: str
    status: int
    error: str
    stream: bool
    prompt_tokens: int
    available_tokens: int
    predicted_tokens: int
    delivered_tokens: int | None
    completion_tokens: int | None
    ttft_ms: float | None
    duration_ms: float
    held_ms: float
    paused_ms: float
    """The part of that in which it waited for room in KV memory."""
    decision_ms: float
    prepare_ms: float
    attempts: int
    main_miss: Reason | None


class Candidate(msgspec.Struct, kw_only=True):
    """One replica as the decision saw it."""

    replica: str
    chosen: bool
    eligible: bool
    last_replica: bool
    cached_tokens: int
    queued_tokens: int
    running: int
    cost: float | None


class RequestExplanation(RequestSummary):
    """What became of one request, and why."""

    router: str
    misses: dict[Reason, int] | None
    """Tokens computed again, by each of the nine reasons."""
    divergence: Divergence | None
    candidates: list[Candidate]
    num_candidates: int
    caches_seen: bool
    continuation: str


def summarise(record: RequestRecord, ttft: float | None, ended: float, wall_offset: float) -> RequestSummary:
    """One line of a list. ``ended`` is in monotonic seconds; with ``wall_offset`` they are since 1970."""
    usage = record.usage
    return RequestSummary(
        request_id=record.request_id,
        time=round(record.started + wall_offset, 3),
        path=record.path,
        tenant=record.tenant,
        model=record.model,
        asked_model=record.asked_model,
        replica=record.replica,
        policy=record.policy,
        arm=record.arm,
        reason=record.reason,
        outcome=record.outcome,
        status=record.status,
        error=record.error,
        stream=record.stream,
        prompt_tokens=usage.prompt_tokens if usage else record.prompt_tokens,
        available_tokens=record.available_cached_tokens,
        predicted_tokens=record.expected_cached_tokens,
        delivered_tokens=usage.cached_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        ttft_ms=None if ttft is None else round(ttft * 1000, 1),
        duration_ms=round((ended - record.started) * 1000, 1),
        held_ms=round(record.held_seconds * 1000, 1),
        paused_ms=round(record.paused_seconds * 1000, 1),
        decision_ms=round(record.decision_seconds * 1000, 3),
        prepare_ms=round(record.prepare_seconds * 1000, 3),
        attempts=record.attempts,
        main_miss=main_miss(record.misses),
    )


def explain(
    record: RequestRecord, ttft: float | None, ended: float, wall_offset: float, router: str
) -> RequestExplanation:
    """A request with its decision; ``router`` is the id of the one that took it."""
    misses, divergence, considered = record.misses, record.divergence, record.considered
    return RequestExplanation(
        **msgspec.structs.asdict(summarise(record, ttft, ended, wall_offset)),
        router=router,
        misses=None if misses is None else {reason: misses.get(reason, 0) for reason in Reason},
        divergence=divergence,
        candidates=[] if considered is None else candidates(considered),
        num_candidates=0 if considered is None else len(considered.replicas),
        caches_seen=considered is not None and considered.caches_seen,
        continuation=record.continuation,
    )


def main_miss(misses: Misses | None) -> Reason | None:
    """The reason with most tokens besides the tail, which nobody can avoid."""
    avoidable = [reason for reason in misses or () if reason is not Reason.TAIL]
    return max(avoidable, key=lambda reason: misses[reason] if misses else 0, default=None)


def candidates(considered: Considered) -> list[Candidate]:
    """The cheapest replicas, with the chosen one and the one that held most of the prompt among them."""
    order = np.argsort(considered.costs, kind="stable").tolist()
    rows = order[:MAX_CANDIDATES]
    wanted = dict.fromkeys((considered.row, int(considered.cached_tokens.argmax())))
    missing = [row for row in wanted if row not in rows]
    if missing:
        rows = [row for row in rows if row not in wanted][: MAX_CANDIDATES - len(wanted)]
        rows = sorted([*rows, *wanted], key=order.index)
    return [
        Candidate(
            replica=considered.replicas[row],
            chosen=row == considered.row,
            eligible=bool(considered.eligible[row]),
            last_replica=row == considered.last_replica,
            cached_tokens=int(considered.cached_tokens[row]),
            queued_tokens=int(considered.queued_tokens[row]),
            running=int(considered.running[row]),
            cost=cost if math.isfinite(cost := float(considered.costs[row])) else None,
        )
        for row in rows
    ]
