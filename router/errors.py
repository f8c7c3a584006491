"""The errors of this package: answers to clients, and how attempts at engines fail."""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

MAX_QUOTED = 64
MAX_NAMES = 10
"""Models that an error lists."""
"""Characters quoted of anything that came from outside: errors are logged, kept and shared through Redis."""
TYPES = {429: "rate_limit_error", 502: "upstream_error", 503: "service_unavailable"}
"""What OpenAI's format calls the types of errors that are not the request's own, by status."""
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""What Anthropic's format calls them; the others of the request's own are invalid_request_error."""
PASSED_ON = (429, 500, 503)
"""Statuses that are an engine's own; with others something before it may speak, or nothing was said."""
MAX_MESSAGE = 1_024
"""Characters of a whole message."""


def quoted(text: str) -> str:
    """At most the first `MAX_QUOTED` characters of a text that came from outside, in quotation marks."""
    return repr(text) if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]!r}..."


class ApiError(Exception):
    """An answer to the client in OpenAI's error format; each kind names its status where it is declared."""

    status: int
    type: str
    code: str | None
    retry_after: int | str | None
    """When trying again may help: in seconds, or as an engine put it."""

    def __init_subclass__(cls, status: int, code: str | None = None, retry_after: int | None = None) -> None:
        cls.status, cls.code, cls.retry_after = status, code, retry_after
        cls.type = TYPES.get(status, "invalid_request_error")

    def __init__(self, message: str, param: str | None = None) -> None:
        self.message = message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "..."
        self.param = param if param is None else param[:MAX_QUOTED]
        super().__init__(self.message)

    @property
    def outcome(self) -> str:
        """What `router.history.record.RequestRecord` calls the end of a request that is answered so."""
        return "failed" if self.status >= 500 else "refused"

    @property
    def headers(self) -> dict[str, str]:
        """What its answer's head says besides."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's API writes it."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def anthropic_body(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """An error, of ours or of an engine, as Anthropic's API writes it."""
    error = body["error"]
    kind = ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {**error, "type": kind}}


class InvalidRequestError(ApiError, status=400):
    """The request is malformed; `param` names the field."""


class ContextTooLongError(InvalidRequestError, status=400, code="context_length_exceeded"):
    """The prompt does not fit into the model's context."""


class AuthenticationError(ApiError, status=401, code="invalid_api_key"):
    """No API key, or one that is not known."""


class AdminTokenError(ApiError, status=401, code="invalid_admin_token"):
    """No admin token, or a wrong one."""


class AdminForbiddenError(ApiError, status=403, code="admin_forbidden"):
    """The admin API is closed to requests of this kind, with or without a token."""


class ModelForbiddenError(ApiError, status=403, code="model_forbidden"):
    """The API key may not use this model."""

    def __init__(self, model: str) -> None:
        super().__init__(f"This API key may not use the model {quoted(model)}.", param="model")


class NotFoundError(ApiError, status=404, code="not_found"):
    """An operator asks for something that is not there."""


class ConflictError(ApiError, status=409, code="conflict"):
    """What an operator wants contradicts what is there."""


class UnknownPathError(ApiError, status=404):
    """There is nothing at this path, or not with this method: then the status is 405."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class UnknownModelError(ApiError, status=404, code="model_not_found"):
    """No replica serves a model of this name."""

    def __init__(self, model: str, known: Sequence[str] = ()) -> None:
        """``known``: the models that the client may name."""
        names = ", ".join(map(quoted, known[:MAX_NAMES]))
        rest = f" and {len(known) - MAX_NAMES} more (GET /v1/models)" if len(known) > MAX_NAMES else ""
        there = f" There is {names}{rest}." if known else ""
        super().__init__(f"The model {quoted(model)} does not exist.{there}", param="model")


class RequestTooSlowError(ApiError, status=408, code="request_timeout"):
    """The head or the body of a request did not arrive in time."""


class BodyTooLargeError(ApiError, status=413, code="request_too_large"):
    """The request body is over the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request body is larger than {limit} bytes.")


class OverloadedError(ApiError, status=429, code="rate_limit_exceeded", retry_after=1):
    """This router, or one client of it, has as many requests open or holds as many bytes as it may."""


class TooManyConnectionsError(ApiError, status=503, code="too_many_connections", retry_after=1):
    """This router has as many connections as it may, and all of them are in use."""


class NoReplicaReadyError(ApiError, status=503, code="no_replica_ready", retry_after=2):
    """The model is known, but nothing that serves it takes requests now."""


class RouterStopsError(ApiError, status=503, code="router_stopping", retry_after=1):
    """The router stops, and has waited for answers as long as it may."""

    outcome = "cancelled"

    def __init__(self) -> None:
        super().__init__("This router stops and can wait no longer; try again.")


class BlocksChangeError(ApiError, status=503, code="blocks_change", retry_after=1):
    """What is asked for changes while it is read."""


class NotDecidedError(ApiError, status=503, code="redis_unavailable"):
    """What an operator wants, or wants to know, needs Redis, which does not answer."""


class UpstreamError(ApiError, status=502, code="upstream_failed", retry_after=1):
    """An engine did not answer, or what it answered broke off."""


class Repeat(Enum):
    """Whether a request whose attempt failed may be sent to another replica."""

    FREELY = auto()
    """The engine did not work on it, or hangs with everything it has."""
    ONCE = auto()
    """The engine may have failed because of it: the same must not be done to every replica."""
    NEVER = auto()
    """It failed for a reason of its own and would do so everywhere."""


class EngineAnswer(NamedTuple):
    """What an engine said when it failed a request."""

    status: int
    body: dict[str, Any] | None
    """Its own words; None where they are not in the API's error format."""
    retry_after: str


class AttemptFailedError(Exception):
    """One attempt at one replica failed before the first byte reached the client."""

    def __init__(
        self,
        message: str,
        *,
        replica_down: bool,
        timed_out: bool = False,
        answer: EngineAnswer | None = None,
        repeat: Repeat = Repeat.FREELY,
        busy: bool = False,
    ) -> None:
        super().__init__(message)
        self.replica_down = replica_down
        """Whether the replica should be left alone for a moment."""
        self.timed_out = timed_out
        self.answer = answer
        """What the engine itself said; asking it again at once is useless."""
        self.repeat = repeat
        self.busy = busy
        """Whether the engine has as many requests as it takes: no fault of it."""


class AttemptsFailedError(UpstreamError, status=502, code="upstream_failed", retry_after=1):
    """No attempt succeeded before the first byte. What the last engine said itself is passed on."""

    def __init__(self, attempts: int, last: AttemptFailedError) -> None:
        several = f"All {attempts} attempts failed; the last one" if attempts > 1 else ""
        super().__init__(f"{several or 'The request failed'}: {last}")
        self.retry_after = None if last.repeat is Repeat.NEVER else 1
        self._body = None
        self._busy = last.busy
        if last.timed_out:
            self.status, self.code = 504, "upstream_timeout"
        elif last.answer is not None and last.answer.status in PASSED_ON:
            self.status, self._body, retry_after = last.answer
            self.type = TYPES.get(self.status, self.type)
            self.retry_after = retry_after or self.retry_after

    @property
    def outcome(self) -> str:
        """Busy engines have not failed."""
        return "refused" if self._busy else super().outcome

    def body(self) -> dict[str, Any]:
        """The engine's own, where it speaks the API's language."""
        return self._body or super().body()


class ReplyBrokenError(Exception):
    """A reply broke off before its end, or did not come in time."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class ReplyTooLargeError(ReplyBrokenError):
    """A reply that has to be read whole is larger than may be kept in memory."""


class ClientStalledError(Exception):
    """A client has not taken anything of its answer for too long, or cannot take any more."""
