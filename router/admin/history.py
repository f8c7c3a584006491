"""What operators ask of the past: what became of requests over time, and what caches have saved."""

import asyncio
import time
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from cluster.errors import StoreUnavailableError
from router.admin.access import DOCUMENTED
from router.answers import Answer, ErrorAnswer, JsonResponse, answers, described
from router.errors import NotDecidedError
from router.history.buckets import STEP_SECONDS
from router.history.history import History
from router.history.history_store import HistoryStore
from router.history.latencies import WarmCold
from router.history.savings import Saved, SavedHour, Savings
from router.history.tallies import DELIVERED, NO_LABELS, PROMPT, Counts, Labels, Sums
from router.history.trends import BIN_SECONDS, COMPLETE_SECONDS, add_sums

MAX_HOURS = 7 * 24
STEPS = {STEP_SECONDS: 3600, 300: 24 * 3600, 3600: MAX_HOURS * 3600}
"""By the length of a step, the longest time that is shown in such ones."""
UNREAD = {503: described(ErrorAnswer, "Redis, where more than an hour is kept, does not answer")}
Label = Annotated[str, Query(max_length=256)]


class TrendStep(msgspec.Struct):
    """What became of the wanted requests that ended in one step.

    `sums` are requests by HTTP status (499: cancelled, 599: broke off), tokens (1 prompt, 2 available, 3
    predicted, 4 delivered, 5 output; from 10 on those computed again, by reason), and from 1000 on streams by
    bins of their time to the first token: a factor `ratio` wide, the first around `first_seconds`.
    """

    time: float
    sums: Counts
    replicas: dict[str, list[int]]
    """Requests, prompt and delivered tokens."""


class TrendsAnswer(Answer):
    """Steps with requests, the oldest first."""

    step_seconds: int
    end: float
    """When the last step ended, also one without requests."""
    first_seconds: float
    ratio: float
    labels: list[list[str]]
    """The models, tenants, replicas and arms that there were."""
    steps: list[TrendStep]


class ModelLatency(WarmCold, frozen=True, kw_only=True):
    """Times to the first token of one model over the last hour."""

    model: str


class SavingsAnswer(Answer):
    """The newest hour last."""

    hours: list[SavedHour]
    total: Saved
    ttft: list[ModelLatency]


def history_routes(history: History, savings: Savings, store: HistoryStore) -> APIRouter:
    """The routes."""
    routes = APIRouter(**DOCUMENTED)

    @routes.get("/admin/trends", **answers(TrendsAnswer, UNREAD))
    async def trends(
        seconds: Annotated[int, Query(ge=STEP_SECONDS, le=MAX_HOURS * 3600)] = 3600,
        after: float = 0.0,
        model: Label = "",
        tenant: Label = "",
        replica: Label = "",
        arm: Label = "",
    ) -> JsonResponse:
        """What became of requests over all routers: up to an hour in steps of ten seconds, a day in steps of
        five minutes, a week in hours; those with the labels that are given, in steps that began later."""
        wanted = (model, tenant, replica, arm)
        step = next(step for step, longest in STEPS.items() if seconds <= longest)
        end = history.completed() + 1
        if step != STEP_SECONDS:
            end = int((end * STEP_SECONDS - COMPLETE_SECONDS) // step)
        numbers = range(max(end - seconds // step, int(after // step) + 1), end)
        pieces, labels = [], [{""} for _ in wanted]
        try:
            async for number, sums in history.trends.read(store, step, numbers):
                for names, name in (pair for key in sums for pair in zip(labels, key, strict=True)):
                    names.add(name)
                pieces.append(msgspec.json.encode(_step(number * step, sums, wanted)))
        except StoreUnavailableError as error:
            raise NotDecidedError("Redis does not answer, and has what is older than an hour.") from error
        head = {
            "step_seconds": step,
            "end": float(end * step),
            "first_seconds": BIN_SECONDS[0],
            "ratio": BIN_SECONDS[1],
            "labels": [sorted(names - {""}) for names in labels],
        }
        return JsonResponse(msgspec.json.encode(head)[:-1] + b',"steps":[' + b",".join(pieces) + b"]}")

    @routes.get("/admin/savings", **answers(SavingsAnswer))
    async def saved(hours: Annotated[int, Query(ge=1, le=MAX_HOURS)] = 24) -> JsonResponse:
        """Prompt tokens that did not have to be computed and the seconds that would have taken, by hour,
        replica and model; times to the first token of the last hour, warm and cold."""
        total, pieces = Saved(), []
        for rows in await savings.report(hours, time.time()):
            for row in rows:
                total.requests += row.requests
                total.prompt_tokens += row.prompt_tokens
                total.saved_tokens += row.saved_tokens
                total.saved_seconds = (total.saved_seconds or 0.0) + (row.saved_seconds or 0.0)
                total.priced_tokens += row.priced_tokens
            pieces.append(msgspec.json.encode(rows)[1:-1])
            await asyncio.sleep(0)
        if total.saved_tokens and not total.priced_tokens:
            total.saved_seconds = None
        ttft = [
            ModelLatency(model=model, **msgspec.structs.asdict(history.ttft(model)))
            for model in history.models()
        ]
        tail = msgspec.json.encode({"total": total, "ttft": ttft})
        return JsonResponse(b'{"hours":[' + b",".join(piece for piece in pieces if piece) + b"]," + tail[1:])

    return routes


def _step(time: int, sums: Sums, wanted: Labels) -> TrendStep:
    total: Sums = {}
    replicas: dict[str, list[int]] = {}
    for labels, counts in sums.items():
        if all(want in ("", label) for want, label in zip(wanted, labels, strict=True)):
            add_sums(total, [(NO_LABELS, counts)])
            of_replica = replicas.setdefault(labels[2], [0, 0, 0])  # "": those that came to none
            of_replica[0] += sum(count for name, count in counts.items() if 100 <= name < 600)
            of_replica[1] += counts.get(PROMPT, 0)
            of_replica[2] += counts.get(DELIVERED, 0)
    return TrendStep(float(time), total.get(NO_LABELS, {}), replicas)
