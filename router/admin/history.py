"""What operators ask of the past: an hour in steps of ten seconds, and what caches have saved."""

import asyncio
import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response

from router.admin.access import DOCUMENTED
from router.answers.past import HistoryAnswer, SavingsAnswer
from router.history.buckets import STEP_SECONDS
from router.history.history import History
from router.history.savings import Savings

MAX_SECONDS = 3600
MAX_HOURS = 7 * 24
PIECE = 8
"""Replicas encoded at once, half a millisecond; requests run in between."""


def history_routes(history: History, savings: Savings) -> APIRouter:
    """The routes."""
    routes = APIRouter(**DOCUMENTED)

    @routes.get("/admin/history", response_model=HistoryAnswer)
    async def past(seconds: Annotated[int, Query(ge=STEP_SECONDS, le=MAX_SECONDS)] = MAX_SECONDS) -> Response:
        """Requests and tokens of each replica in steps of ten seconds, over all routers, up to the last step
        that is over; of the whole fleet the tokens computed again, by reason."""
        timeline = history.timeline(seconds)
        pieces = []
        for first in range(0, len(timeline.replicas), PIECE):
            names = timeline.replicas[first : first + PIECE]
            pieces.append(msgspec.json.encode({name: timeline.columns(name) for name in names})[1:-1])
            await asyncio.sleep(0)
        fleet = {"step_seconds": STEP_SECONDS, "times": timeline.times, "misses": timeline.misses}
        return _json(msgspec.json.encode(fleet)[:-1] + b',"replicas":{' + b",".join(pieces) + b"}}")

    @routes.get("/admin/savings", response_model=SavingsAnswer)
    async def saved(hours: Annotated[int, Query(ge=1, le=MAX_HOURS)] = 24) -> Response:
        """Prompt tokens that did not have to be computed and the seconds that would have taken, by hour,
        replica and model; times to the first token of the last hour, warm and cold."""
        requests = prompt_tokens = saved_tokens = 0
        saved_seconds = 0.0
        pieces = []
        for rows in await savings.report(hours, time.time()):
            requests += sum(row.requests for row in rows)
            prompt_tokens += sum(row.prompt_tokens for row in rows)
            saved_tokens += sum(row.saved_tokens for row in rows)
            saved_seconds += sum(row.saved_seconds for row in rows)
            pieces.append(msgspec.json.encode(rows)[1:-1])
            await asyncio.sleep(0)
        total = {
            "requests": requests,
            "prompt_tokens": prompt_tokens,
            "saved_tokens": saved_tokens,
            "saved_seconds": saved_seconds,
        }
        ttft = [_ttft(history, model) for model in history.models()]
        tail = msgspec.json.encode({"total": total, "ttft": ttft})
        return _json(b'{"hours":[' + b",".join(piece for piece in pieces if piece) + b"]," + tail[1:])

    return routes


def _ttft(history: History, model: str) -> dict[str, Any]:
    warm, cold = history.ttft(model)
    return {"model": model, "warm": warm, "cold": cold}


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
