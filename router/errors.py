"""The errors of this package, and how each looks to a client.

ApiError                        an answer in OpenAI's error format
├── InvalidRequestError         400, names the field
├── ContextTooLongError         400
├── AuthenticationError         401
├── AdminTokenError             401 + WWW-Authenticate
├── AdminForbiddenError         403
├── UnknownPathError            404, 405
├── NotFoundError               404
├── UnknownModelError           404
├── RequestTooSlowError         408
├── BodyTooLargeError           413
├── OverloadedError             429 + Retry-After
├── TooManyConnectionsError     503 + Retry-After
├── NoReplicaReadyError         503 + Retry-After
├── NotDecidedError             503
├── BlocksChangeError           503 + Retry-After
└── UpstreamError               502 or 504: every attempt failed
AttemptFailedError              one attempt at one replica failed; it says whether another replica may try
ReplyBrokenError                a reply broke off, or did not come in time
└── ReplyTooLargeError          over the limit for answers that are read whole
ClientStalledError              a client does not read its answer
"""

from enum import Enum, auto
from typing import Any

MAX_QUOTED = 64
"""Characters quoted of anything that came from outside: errors are logged, kept and shared through Redis."""
MAX_MESSAGE = 1_024
"""Characters of a whole message."""


def quoted(text: str) -> str:
    """At most the first `MAX_QUOTED` characters of a text that came from outside, in quotation marks."""
    return repr(text) if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]!r}..."


class ApiError(Exception):
    """An answer to the client in OpenAI's error format."""

    status = 500
    type = "server_error"
    code: str | None = None
    retry_after: int | None = None
    """Seconds after which trying again may help."""

    def __init__(self, message: str, param: str | None = None) -> None:
        self.message = message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "..."
        self.param = param if param is None else param[:MAX_QUOTED]
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's API writes it."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequestError(ApiError):
    """The request is malformed; `param` names the field."""

    status = 400
    type = "invalid_request_error"


class ContextTooLongError(InvalidRequestError):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"


class AuthenticationError(ApiError):
    """No API key, or one that is not known."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class AdminTokenError(ApiError):
    """No admin token, or a wrong one."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_admin_token"


class AdminForbiddenError(ApiError):
    """The admin API is closed to requests of this kind, with or without a token."""

    status = 403
    type = "invalid_request_error"
    code = "admin_forbidden"


class NotFoundError(ApiError):
    """An operator asks for something that is not there."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class UnknownPathError(ApiError):
    """There is nothing at this path, or not with this method."""

    type = "invalid_request_error"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class UnknownModelError(ApiError):
    """No replica serves a model of this name."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model {quoted(model)} does not exist.", param="model")


class RequestTooSlowError(ApiError):
    """The head or the body of a request did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class BodyTooLargeError(ApiError):
    """The request body is over the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request body is larger than {limit} bytes.")


class OverloadedError(ApiError):
    """This router, or one client of it, has as many requests open or holds as many bytes as it may."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after = 1


class TooManyConnectionsError(ApiError):
    """This router has as many connections as it may, and all of them are in use."""

    status = 503
    type = "service_unavailable"
    code = "too_many_connections"
    retry_after = 1


class NoReplicaReadyError(ApiError):
    """The model is known, but nothing that serves it takes requests now."""

    status = 503
    type = "service_unavailable"
    code = "no_replica_ready"
    retry_after = 2


class BlocksChangeError(ApiError):
    """What is asked for changes while it is read."""

    status = 503
    type = "service_unavailable"
    code = "blocks_change"
    retry_after = 1


class NotDecidedError(ApiError):
    """What an operator wants, or wants to know, needs Redis, which does not answer."""

    status = 503
    type = "service_unavailable"
    code = "redis_unavailable"


class UpstreamError(ApiError):
    """No attempt succeeded before the first byte."""

    type = "upstream_error"

    def __init__(self, message: str, status: int = 502, retry_after: int | None = 1) -> None:
        super().__init__(message)
        self.status = status
        self.code = "upstream_timeout" if status == 504 else "upstream_failed"
        self.retry_after = retry_after


class Repeat(Enum):
    """Whether a request whose attempt failed may be sent to another replica."""

    FREELY = auto()
    """The engine did not work on it, or hangs with everything it has."""
    ONCE = auto()
    """The engine may have failed because of it: the same must not be done to every replica."""
    NEVER = auto()
    """It failed for a reason of its own and would do so everywhere."""


class AttemptFailedError(Exception):
    """One attempt at one replica failed before the first byte reached the client."""

    def __init__(
        self,
        message: str,
        *,
        replica_down: bool,
        timed_out: bool = False,
        answered: bool = False,
        repeat: Repeat = Repeat.FREELY,
    ) -> None:
        super().__init__(message)
        self.replica_down = replica_down
        """Whether the replica should be left alone for a moment."""
        self.timed_out = timed_out
        self.answered = answered
        """Whether the engine itself said no, so that asking it again at once is useless."""
        self.repeat = repeat


class ReplyBrokenError(Exception):
    """A reply broke off before its end, or did not come in time."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class ReplyTooLargeError(ReplyBrokenError):
    """A reply that has to be read whole is larger than may be kept in memory."""


class ClientStalledError(Exception):
    """A client has not taken anything of its answer for too long, or cannot take any more."""
