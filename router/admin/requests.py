"""The last requests, and why each of them went where it did."""

from typing import Annotated

from fastapi import APIRouter, Query

from router.admin.access import DOCUMENTED
from router.answers.general import ErrorAnswer, RequestExplanation, RequestsAnswer
from router.errors import NotFoundError, quoted
from router.observe.explanations import MAX_RECORDS, Explanations


def request_routes(explanations: Explanations) -> APIRouter:
    """The routes that explain."""
    routes = APIRouter(**DOCUMENTED)

    @routes.get("/admin/requests")
    async def recent(limit: Annotated[int, Query(ge=1, le=MAX_RECORDS)] = 50) -> RequestsAnswer:
        """The last requests of this router and a sample of the other routers' requests, the newest first."""
        return {"requests": await explanations.recent(limit)}

    @routes.get("/admin/requests/{request_id:path}", responses={404: {"model": ErrorAnswer}})
    async def explain(request_id: str) -> RequestExplanation:
        """One request: what the decision saw, what came of it, and why tokens were computed again."""
        explanation = await explanations.explain(request_id)
        if explanation is None:
            raise NotFoundError(f"Nobody remembers a request {quoted(request_id)}.", "request_id")
        return explanation

    return routes
