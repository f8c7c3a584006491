"""How well Redis serves a process, as the process's own regular writes show."""

SLOW_SECONDS = 0.25
"""A round trip that takes longer makes Redis count as slow."""


class StoreCondition:
    """What the last writes met. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.refusal = ""
        """Why Redis refuses to be written to; "" while it does not."""
        self.unreadable = ""
        """Why Redis refuses to be read; "" while it does not."""
        self.tls_problem = ""
        """Why there is no connection to Redis, where that is because of TLS."""
        self.missing_rights: list[str] = []
        """What Redis' ACL should allow this process, as it is written there."""
        self._asked_at: float | None = None
        self._last_seconds = 0.0

    def asked(self, now: float) -> None:
        """A write has been sent."""
        self._asked_at = now

    def answered(self, now: float) -> None:
        """It was done, or refused."""
        if self._asked_at is not None:
            self._last_seconds = now - self._asked_at
        self._asked_at = None

    def lost(self) -> None:
        """It was not answered at all."""
        self._asked_at, self.refusal = None, ""

    def seconds(self, now: float) -> float:
        """How long the last round trip took, or how long the one under way has taken if that is more."""
        waiting = now - self._asked_at if self._asked_at is not None else 0.0
        return max(self._last_seconds, waiting)
