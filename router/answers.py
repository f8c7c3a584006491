"""What the router reads and answers as JSON besides OpenAI's API: structs, also for the OpenAPI document.

Times are seconds since 1970; counts are tokens unless they say otherwise; rates lie between 0 and 1 and are
null where nothing was counted.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from fastapi.responses import Response

from router.errors import InvalidRequestError
from router.http.client_request import client_request
from router.requests.schema import read_object

S = TypeVar("S", bound=msgspec.Struct)

REFERENCE = "#/components/schemas/{name}"


class Answer(msgspec.Struct, kw_only=True):
    """A JSON object that some path answers. Each is defined beside what makes it."""


class ErrorDetail(msgspec.Struct):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """Every error, as in the rest of the API."""

    error: ErrorDetail


class JsonResponse(Response):
    """An answer, encoded."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body: that of bytes is JSON already."""
        return content if isinstance(content, bytes) else msgspec.json.encode(content)


def described(shape: type[Answer], description: str = "Successful Response") -> dict[str, Any]:
    """What the OpenAPI document says of one response."""
    schema = {"$ref": REFERENCE.format(name=shape.__name__)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def answers(shape: type[Answer], errors: dict[int, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Options of a route that answers with this shape, or with one of these errors."""
    return {"responses": {200: described(shape), **(errors or {})}}


def schemas() -> dict[str, Any]:
    """The schemas of all answers, for the OpenAPI document."""
    return msgspec.json.schema_components(_shapes(Answer), ref_template=REFERENCE)[1]


def _shapes(base: type[Answer]) -> Iterator[type[Answer]]:
    for shape in base.__subclasses__():
        yield shape
        yield from _shapes(shape)


async def chosen(request: Request, shape: type[S], max_bytes: int = 64 * 1024) -> S:
    """The body of a request. Raises `InvalidRequestError` with the field that is wrong."""
    raw = await client_request(request.scope).read_body(max_bytes)
    try:
        return msgspec.convert(read_object(raw or b"").fields, shape)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        missing = message.partition("missing required field `")[2].rstrip("`")
        param = path.rstrip("`").removeprefix("$").removeprefix(".") or missing or None
        raise InvalidRequestError(f"{message}{f' at {param!r}' if path else ''}.", param) from error


def body_of(shape: type[msgspec.Struct]) -> dict[str, Any]:
    """What OpenAPI says of a body that is read here and not by FastAPI."""
    [schema], components = msgspec.json.schema_components([shape], ref_template=REFERENCE)
    schema = components.get(shape.__name__, schema)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
