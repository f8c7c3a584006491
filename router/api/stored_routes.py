"""Responses and conversations that are kept: fetched, listed, changed, cancelled and deleted."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from cluster.apis.answer_blocks import Json
from router.api.background import events_of, forget, retrieved
from router.errors import InvalidRequestError, NotFoundError, quoted
from router.http.client_request import client_request
from router.http.sse import UNREADABLE
from router.stored.history import WORKING, StoredResponses, items_of, named
from router.tenants.keys import Authenticator, credentials

MAX_LISTED = 100


Limit = Annotated[int, Query(ge=1, le=MAX_LISTED)]


def stored_routes(stored: StoredResponses, authenticate: Authenticator, max_bytes: int) -> APIRouter:
    """Everything but ``POST /v1/responses``."""
    routes = APIRouter()

    def owner_of(request: Request) -> str:
        return authenticate(credentials(dict(reversed(request.headers.raw)))).name

    async def body_of(request: Request) -> Json:
        raw = await client_request(request.scope).read_body(max_bytes) or b"{}"
        try:
            fields = msgspec.json.decode(raw)
        except UNREADABLE as error:
            raise InvalidRequestError("The request body is not valid JSON.") from error
        if not isinstance(fields, dict) or not isinstance(fields.get("metadata") or {}, dict):
            raise InvalidRequestError("The request body must be an object, and so must 'metadata'.")
        return fields

    @routes.get("/v1/responses/{name}")
    async def retrieve(
        request: Request, name: str, stream: bool = False, starting_after: int = -1
    ) -> Response:
        """A response, or the events of one that was made in the background."""
        owner = owner_of(request)
        response = await retrieved(stored, owner, name)
        if not stream:
            return JSONResponse(response)
        if not response["background"]:
            raise InvalidRequestError("Only responses made in the background can be streamed.", "stream")
        events = events_of(stored, owner, name, starting_after)
        return StreamingResponse(events, media_type="text/event-stream")

    @routes.delete("/v1/responses/{name}")
    async def delete(request: Request, name: str) -> Json:
        """Forget a response, whatever was made of it, and its text."""
        owner = owner_of(request)
        await stored.record(owner, name)
        await forget(stored, owner, name)
        return {"id": name, "object": "response", "deleted": True}

    @routes.post("/v1/responses/{name}/cancel")
    async def cancel(request: Request, name: str) -> Json:
        """Stop a response that is made in the background."""
        owner = owner_of(request)
        if not (await stored.record(owner, name)).response["background"]:
            raise InvalidRequestError("Only responses made in the background can be cancelled.")

        def cancelled(record: Any) -> Any:
            if record.response["status"] not in WORKING:
                return None
            response = {**record.response, "status": "cancelled"}
            return msgspec.structs.replace(record, response=response)

        return (await stored.change(owner, name, cancelled)).response

    @routes.get("/v1/responses/{name}/input_items")
    async def input_items(
        request: Request, name: str, after: str = "", limit: Limit = 20, order: str = "desc"
    ) -> Json:
        """What a response was asked."""
        items = (await stored.record(owner_of(request), name)).input
        items = [{**item, "id": item.get("id") or f"{name}_{n}"} for n, item in enumerate(items)]
        return page_of(items, after, limit, order)

    @routes.post("/v1/conversations")
    async def create_conversation(request: Request) -> Json:
        """Begin a conversation."""
        owner = owner_of(request)
        return (await stored.create_conversation(owner, await body_of(request))).described()

    @routes.get("/v1/conversations/{name}")
    async def conversation(request: Request, name: str) -> Json:
        """A conversation without its items."""
        return (await stored.conversation(owner_of(request), name)).described()

    @routes.post("/v1/conversations/{name}")
    async def update_conversation(request: Request, name: str) -> Json:
        """Replace its metadata."""
        owner, fields = owner_of(request), await body_of(request)
        changed = await stored.change_conversation(owner, name, metadata=fields.get("metadata") or {})
        return changed.described()

    @routes.delete("/v1/conversations/{name}")
    async def delete_conversation(request: Request, name: str) -> Json:
        """Forget a conversation with all its items."""
        owner = owner_of(request)
        await stored.conversation(owner, name)
        await stored.vault.remove(owner, name)
        return {"id": name, "object": "conversation.deleted", "deleted": True}

    @routes.get("/v1/conversations/{name}/items")
    async def items(
        request: Request, name: str, after: str = "", limit: Limit = 20, order: str = "desc"
    ) -> Json:
        """What has been said."""
        return page_of((await stored.conversation(owner_of(request), name)).items, after, limit, order)

    @routes.post("/v1/conversations/{name}/items")
    async def add_items(request: Request, name: str) -> Json:
        """Add to it."""
        owner = owner_of(request)
        added = named(items_of((await body_of(request)).get("items")))
        await stored.change_conversation(owner, name, added)
        return page_of(added, "", len(added), "asc")

    @routes.get("/v1/conversations/{name}/items/{item}")
    async def one_item(request: Request, name: str, item: str) -> Json:
        """One of its items."""
        found = (await stored.conversation(owner_of(request), name)).items
        for one in found:
            if one["id"] == item:
                return one
        raise NotFoundError(f"Item with id {quoted(item)} not found.")

    @routes.delete("/v1/conversations/{name}/items/{item}")
    async def remove_item(request: Request, name: str, item: str) -> Json:
        """Forget one of its items."""
        return (await stored.change_conversation(owner_of(request), name, removed=item)).described()

    return routes


def page_of(items: list[Json], after: str, limit: int, order: str) -> Json:
    """A part of a list as OpenAI's API writes it."""
    items = items if order == "asc" else items[::-1]
    ids = [item["id"] for item in items]
    start = ids.index(after) + 1 if after in ids else 0
    page = items[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(items),
    }
