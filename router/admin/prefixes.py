"""What many prompts begin with: by the key of its last block, never its text."""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query

from cluster.fleet import Fleet
from router.admin.access import DOCUMENTED
from router.admin.answers import PrefixAnswer, PrefixesAnswer

MAX_PREFIXES = 100


def prefix_routes(fleet: Fleet) -> APIRouter:
    """The route that shows them."""
    routes = APIRouter(**DOCUMENTED)

    @routes.get("/admin/prefixes")
    async def prefixes(limit: Annotated[int, Query(ge=1, le=MAX_PREFIXES)] = 20) -> PrefixesAnswer:
        """Blocks after which prompts that this router has sent part ways, the most frequent first."""
        hottest = sorted(_hottest(fleet, limit), key=lambda prefix: -prefix["prompts"])
        return {"prefixes": hottest[:limit]}

    return routes


def holders_of(fleet: Fleet, key: int) -> list[str]:
    """Ids of the replicas that are believed to hold a block."""
    held = fleet.index.matched_blocks(np.array([key], dtype=np.uint64))
    return sorted(replica_id for replica_id, replica in fleet.replicas.items() if held[replica.slot])


def _hottest(fleet: Fleet, limit: int) -> Iterator[PrefixAnswer]:
    for model, branches in fleet.branches.items():
        for branch in branches.hottest(limit):
            yield {
                "key": f"{branch.key:016x}",
                "model": model,
                "tokens": branch.tokens,
                "holders": holders_of(fleet, branch.key),
                "share": round(branch.share, 4),
                "prompts": round(branch.prompts, 2),
            }
