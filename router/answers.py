"""What the router answers as JSON besides OpenAI's API: structs, of which the OpenAPI document is made, too.

Times are seconds since 1970; counts are tokens unless they say otherwise; rates lie between 0 and 1 and are
null where nothing was counted.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from fastapi.responses import Response

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
