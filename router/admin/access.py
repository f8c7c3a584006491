"""Who may use the admin API: whoever has the token, or, where none is set, whoever is on the same machine.
Where others can reach the router, its documentation and metrics are guarded like it.

A browser on that machine may show other people's pages, and those may send requests here. So requests that
another page has made are refused, and so are names that were made to point at this machine (DNS rebinding).
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.settings import is_loopback
from router.answers import ErrorAnswer, described
from router.errors import AdminForbiddenError, AdminTokenError, ApiError, quoted
from router.settings import RouterSettings

SETTING = "WARMROUTE_ADMIN_TOKEN"
HOW_TO_OPEN = f"Set {SETTING} (16 characters or more) for the router, and send 'Authorization: Bearer TOKEN'."
HOW_TO_OPEN_METRICS = "WARMROUTE_OPEN_METRICS=true opens /metrics without one."
DOCUMENTATION = ("/openapi.json",)
METRICS = "/metrics"
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""With one of these a request comes from somewhere else, whatever its connection looks like."""
MAX_HOST_LENGTH = 512
"""The longest name that is looked at, in characters; DNS has 253."""
DEFAULT_PORTS = {"http": 80, "https": 443}

By: TypeAlias = Literal["token", "loopback"]

_TOKEN = HTTPBearer(
    auto_error=False,
    scheme_name="adminToken",
    description=f"The router's {SETTING}; not asked for without one.",
)
DOCUMENTED: Mapping[str, Any] = {
    "tags": ["admin"],
    "dependencies": [Security(_TOKEN)],
    "responses": {
        401: described(ErrorAnswer, "No token, or a wrong one"),
        403: described(ErrorAnswer, "Closed: no token is set, or another page has asked"),
        "default": described(ErrorAnswer, "Any other error"),
    },
}
"""What the OpenAPI document says of every route under ``/admin``; `AdminGate` is what enforces it."""


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one router."""

    token: str
    """"" where none is set."""
    on_loopback: bool
    """Whether the router listens on a loopback address only."""
    open_metrics: bool = False
    """Whether metrics are for everybody, also where others can reach the router."""

    @classmethod
    def of(cls, settings: RouterSettings) -> "Access":
        """The rules that the settings ask for."""
        return cls(settings.admin_token, is_loopback(settings.host), settings.open_metrics)

    def guards(self, path: str) -> bool:
        """Whether what is at a path passes `check`."""
        if _is_under(path, "/admin"):
            return True
        if self.on_loopback:
            return False
        if _is_under(path, METRICS):
            return not self.open_metrics
        return any(_is_under(path, documentation) for documentation in DOCUMENTATION)

    def check(self, headers: Headers, client: str) -> By:
        """Why a request may come in; ``client`` is the address at the other end of its connection.

        Raises `AdminTokenError` or `AdminForbiddenError`.
        """
        if (origin := headers.get("origin")) is not None and not _same_origin(
            origin, headers.get("host", "")
        ):
            raise AdminForbiddenError(f"Requests of other pages ({quoted(origin)}) are refused.")
        if self.token:
            _require_token(self.token, headers.get("authorization"))
            return "token"
        if not self.on_loopback:
            raise AdminForbiddenError(
                f"This is closed, since the router does not listen on loopback only. {HOW_TO_OPEN} "
                f"{HOW_TO_OPEN_METRICS}"
            )
        if not is_loopback(client) or any(name in headers for name in PROXY_HEADERS):
            raise AdminForbiddenError(
                f"Without a token the admin API is open to this machine only. {HOW_TO_OPEN}"
            )
        if not all(_is_loopback_name(host) for host in headers.getlist("host") or [""]):
            raise AdminForbiddenError(
                f"Without a token the admin API answers to the names of loopback addresses only, not to "
                f"{quoted(headers.get('host', ''))}. {HOW_TO_OPEN}"
            )
        return "loopback"


class AdminGate:
    """Middleware around the whole application: whatever `Access` guards passes it, but for the page's own
    files, which hold no data. Routes find who has asked in `who_asks`.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request pass, or refuse it."""
        if scope["type"] == "http" and self._is_guarded(scope):
            client = scope["client"][0] if scope.get("client") else ""
            try:
                by = self._access.check(Headers(scope=scope), client)
            except ApiError as error:
                await _refusal(error)(scope, receive, send)
                return
            scope.setdefault("state", {})["admin_by"] = f"{client}, {by}"
        await self._app(scope, receive, send)

    def _is_guarded(self, scope: Scope) -> bool:
        path: str = scope["path"]
        inner = "/" + path.removeprefix(scope.get("root_path", "")).lstrip("/")
        if not any(map(self._access.guards, (path, inner))):
            return False
        is_file = inner in ("/admin", "/admin/") or inner.startswith("/admin/static/")
        return not (is_file and scope["method"] in ("GET", "HEAD"))


def who_asks(request: Request) -> str:
    """Address of who has asked, and by what right, for the audit log."""
    by: str = getattr(request.state, "admin_by", "unknown")
    return by


def _is_under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _refusal(error: ApiError) -> JSONResponse:
    headers = {"www-authenticate": 'Bearer realm="warmroute admin"'} if error.status == 401 else None
    return JSONResponse(error.body(), error.status, headers)


def _require_token(token: str, authorization: str | None) -> None:
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise AdminTokenError("The admin API needs its token: send it as 'Authorization: Bearer TOKEN'.")
    # Digests of the same length: comparing takes the same time whatever was given.
    if not hmac.compare_digest(_digest(given.strip()), _digest(token)):
        raise AdminTokenError("Incorrect admin token.")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _same_origin(origin: str, host: str) -> bool:
    """Whether a page of this origin was served under this Host."""
    scheme = origin.partition("://")[0]
    ours, theirs = _name_and_port(host, scheme), _name_and_port(origin.partition("://")[2], scheme)
    return scheme in DEFAULT_PORTS and bool(ours[0]) and ours == theirs


def _is_loopback_name(host: str) -> bool:
    return is_loopback(_name_and_port(host, "http")[0])


def _name_and_port(host: str, scheme: str) -> tuple[str, int]:
    """Name and port of ``name:port`` or ``[address]:port``; no name when it is neither."""
    if len(host) > MAX_HOST_LENGTH:  # `urlsplit` would remember it
        return "", 0
    try:
        parts = urlsplit(f"//{host}")
        if parts.netloc != host or "@" in host:
            return "", 0
        return parts.hostname or "", parts.port or DEFAULT_PORTS.get(scheme, 0)
    except ValueError:
        return "", 0
