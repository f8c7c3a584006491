"""The last requests, and why each of them went where it did."""

from typing import Annotated

from fastapi import APIRouter, Query

from router.admin.access import DOCUMENTED
from router.answers import Answer, ErrorAnswer, JsonResponse, answers, described
from router.errors import NotFoundError, quoted
from router.observe.explanations import MAX_RECORDS, Explanations
from router.observe.request_summary import RequestExplanation, RequestSummary


class RequestsAnswer(Answer):
    """The newest first."""

    requests: list[RequestSummary]


def request_routes(explanations: Explanations) -> APIRouter:
    """The routes that explain."""
    routes = APIRouter(**DOCUMENTED)

    @routes.get("/admin/requests", **answers(RequestsAnswer))
    async def recent(limit: Annotated[int, Query(ge=1, le=MAX_RECORDS)] = 50) -> JsonResponse:
        """The last requests of this router and a sample of the other routers' requests, the newest first."""
        return JsonResponse(RequestsAnswer(requests=await explanations.recent(limit)))

    @routes.get(
        "/admin/requests/{request_id:path}",
        **answers(RequestExplanation, {404: described(ErrorAnswer, "Nobody remembers it")}),
    )
    async def explain(request_id: str) -> JsonResponse:
        """One request: what the decision saw, what came of it, and why tokens were computed again."""
        explanation = await explanations.explain(request_id)
        if explanation is None:
            raise NotFoundError(f"Nobody remembers a request {quoted(request_id)}.", "request_id")
        return JsonResponse(explanation)

    return routes
