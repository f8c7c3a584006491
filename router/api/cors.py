"""Lets pages of other origins use the API from browsers, where operators have named these origins.

Starlette's rules decide. Their headers are put on the request, since most answers pass no middleware.
"""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Message, Receive, Scope, Send

from router.api.plain import ANSWERED_HERE
from router.http.client_request import client_request
from router.requests.endpoints import ENDPOINTS

ASKED_METHOD = "access-control-request-method"
METHODS = ("GET", "HEAD", "POST")
EXPOSED = (
    *("Retry-After", "X-Request-Id", "X-Warmroute-Request-Id", "X-Warmroute-Replica", "X-Warmroute-Reason"),
    *("X-Warmroute-Policy", "X-Warmroute-Expected-Cached-Tokens"),
)
"""Headers of answers that pages may read."""
PUBLIC = frozenset((*ENDPOINTS, *ANSWERED_HERE))


class Cors:
    """The rules of one router. The admin API, metrics and documentation are for pages of their own origin."""

    def __init__(self, origins: Collection[str]) -> None:
        self._rules = CORSMiddleware(
            _nowhere, origins, allow_methods=METHODS, allow_headers=("*",), expose_headers=EXPOSED
        )

    async def answers(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a browser's question about a request; else see that the answer says what a page may read."""
        path: str = scope["path"]
        if path not in PUBLIC and not path.startswith("/v1/"):
            return False
        headers = Headers(scope=scope)
        if scope["method"] == "OPTIONS" and {"origin", ASKED_METHOD} <= {*headers}:
            await self._rules.preflight_response(headers)(scope, receive, send)
            return True
        answer: Message = {"type": "http.response.start", "headers": []}
        await self._rules.send(answer, _pass_nothing_on, headers)
        client_request(scope).add_headers(answer["headers"])
        return False


async def _nowhere(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """In the place of an application."""


async def _pass_nothing_on(_message: Message) -> None:
    """In the place of a client."""
