"""What operators ask of the past: an hour in steps of ten seconds, and what caches have saved."""

import asyncio
import time
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from router.admin.access import DOCUMENTED
from router.answers import Answer, JsonResponse, answers
from router.explain.misses import Reason
from router.history.buckets import STEP_SECONDS
from router.history.history import History
from router.history.latencies import Latency
from router.history.savings import Saved, SavedHour, Savings

MAX_SECONDS = 3600
MAX_HOURS = 7 * 24
PIECE = 8
"""Replicas encoded at once, half a millisecond; requests run in between."""


class ReplicaHistory(msgspec.Struct):
    """One number for each step."""

    requests: list[int]
    prompt_tokens: list[int]
    available_tokens: list[int]
    predicted_tokens: list[int]
    delivered_tokens: list[int]


class HistoryAnswer(Answer):
    """Steps by their start, the oldest first; replicas that had traffic; misses of the whole fleet."""

    step_seconds: int
    times: list[float]
    misses: dict[Reason, list[int]]
    replicas: dict[str, ReplicaHistory]


class ModelLatency(msgspec.Struct):
    """Times to the first token of one model over the last hour, warm (half or more was cached) and cold."""

    model: str
    warm: Latency
    cold: Latency


class SavingsAnswer(Answer):
    """The newest hour last."""

    hours: list[SavedHour]
    total: Saved
    ttft: list[ModelLatency]


def history_routes(history: History, savings: Savings) -> APIRouter:
    """The routes."""
    routes = APIRouter(**DOCUMENTED)

    @routes.get("/admin/history", **answers(HistoryAnswer))
    async def past(
        seconds: Annotated[int, Query(ge=STEP_SECONDS, le=MAX_SECONDS)] = MAX_SECONDS,
    ) -> JsonResponse:
        """Requests and tokens of each replica in steps of ten seconds, over all routers, up to the last step
        that is over; of the whole fleet the tokens computed again, by reason."""
        timeline = history.timeline(seconds)
        pieces = []
        for first in range(0, len(timeline.replicas), PIECE):
            names = timeline.replicas[first : first + PIECE]
            pieces.append(msgspec.json.encode({name: timeline.columns(name) for name in names})[1:-1])
            await asyncio.sleep(0)
        fleet = {"step_seconds": STEP_SECONDS, "times": timeline.times, "misses": timeline.misses}
        return JsonResponse(msgspec.json.encode(fleet)[:-1] + b',"replicas":{' + b",".join(pieces) + b"}}")

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
                total.saved_seconds += row.saved_seconds
            pieces.append(msgspec.json.encode(rows)[1:-1])
            await asyncio.sleep(0)
        ttft = [ModelLatency(model, *history.ttft(model)) for model in history.models()]
        tail = msgspec.json.encode({"total": total, "ttft": ttft})
        return JsonResponse(b'{"hours":[' + b",".join(piece for piece in pieces if piece) + b"]," + tail[1:])

    return routes
