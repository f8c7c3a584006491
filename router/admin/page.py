"""The dashboard's files: one page, its style and its scripts.

They hold no data, so they are served to everybody; what the page shows it fetches from the admin API.
"""

import mimetypes
from pathlib import Path

import xxhash
from fastapi import APIRouter, Request, Response

from router.errors import UnknownPathError, quoted

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
DOCUMENTATION = "docs.html"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, and asked for again: a new version shows at once
}


class PageFile:
    """One file, read once."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self._headers = {**HEADERS, "ETag": f'"{xxhash.xxh3_64_hexdigest(self._content)}"'}

    def answer(self, request: Request) -> Response:
        """The file, or 304 for a browser that has it already."""
        known = request.headers.get("if-none-match", "")
        if self._headers["ETag"] in known:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, media_type=self._media_type, headers=self._headers)


def page_routes() -> APIRouter:
    """The routes of the dashboard's own files."""
    routes = APIRouter(include_in_schema=False)
    files = {path.name: PageFile(path) for path in STATIC.iterdir() if path.is_file()}

    @routes.get("/admin")
    async def page(request: Request) -> Response:
        """The dashboard."""
        return files[PAGE].answer(request)

    @routes.get("/docs")
    async def documentation(request: Request) -> Response:
        """The API, described; the page loads the OpenAPI document."""
        return files[DOCUMENTATION].answer(request)

    @routes.get("/admin/static/{name}")
    async def static(name: str, request: Request) -> Response:
        """A style, a script or a picture of it."""
        if name not in files:
            raise UnknownPathError(404, f"There is nothing at {quoted(request.scope['path'])}.")
        return files[name].answer(request)

    return routes
