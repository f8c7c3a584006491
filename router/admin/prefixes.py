"""What many prompts begin with: by the key of its last block, never its text."""

import asyncio
import time
from heapq import nlargest
from typing import Annotated

import msgspec
import numpy as np
from fastapi import APIRouter, Query

from cluster.apis.breakpoints import CacheBreakpoint, KnownBreakpoints
from cluster.fleet.branches import Branch
from cluster.fleet.fleet import Fleet
from router.admin.access import DOCUMENTED
from router.answers import Answer, JsonResponse, answers

MAX_PREFIXES = 100
DESCRIBED = 10
"""Blocks whose holders are looked up in one go: 2 ms with a thousand replicas."""


class HotPrefix(msgspec.Struct, kw_only=True):
    """A beginning that many prompts share: its last block, and how long it is."""

    key: str
    model: str
    tokens: int
    holders: list[str]
    share: float
    prompts: float


class PrefixesAnswer(Answer):
    """The most popular first, and breakpoints, the most read ones first."""

    prefixes: list[HotPrefix]
    breakpoints: list[CacheBreakpoint]


def prefix_routes(fleet: Fleet, known: KnownBreakpoints) -> APIRouter:
    """The route that shows them."""
    routes = APIRouter(**DOCUMENTED)

    @routes.get("/admin/prefixes", **answers(PrefixesAnswer))
    async def prefixes(limit: Annotated[int, Query(ge=1, le=MAX_PREFIXES)] = 20) -> JsonResponse:
        """Blocks after which prompts that this router has sent part ways, the most frequent first."""
        popular: list[tuple[Branch, str]] = []
        for model, branches in list(fleet.branches.items()):
            own = [(branch, model) for branch in branches.most_popular(limit)]
            popular = nlargest(limit, popular + own, key=lambda one: one[0].prompts)
            await asyncio.sleep(0)
        described = []
        for branch, model in popular:
            described.append(_describe(fleet, branch, model))
            if not len(described) % DESCRIBED:
                await asyncio.sleep(0)
        breakpoints = known.most_read(limit, time.time())
        return JsonResponse(PrefixesAnswer(prefixes=described, breakpoints=breakpoints))

    return routes


def holders_of(fleet: Fleet, key: int) -> list[str]:
    """Ids of the replicas that are believed to hold a block."""
    held = fleet.index.matched_blocks(np.array([key], dtype=np.uint64))
    return sorted(replica_id for replica_id, replica in fleet.replicas.items() if held[replica.slot])


def _describe(fleet: Fleet, branch: Branch, model: str) -> HotPrefix:
    return HotPrefix(
        key=f"{branch.key:016x}",
        model=model,
        tokens=branch.tokens,
        holders=holders_of(fleet, branch.key),
        share=round(branch.share, 4),
        prompts=round(branch.prompts, 2),
    )
