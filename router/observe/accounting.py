"""What became of every request: one record each, in metrics, in a running experiment, and in one log line."""

import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from router.explain.explainer import Explainer, Prospect
from router.explain.misses import Considered, Divergence, Misses
from router.history.history import History
from router.http.sse import Usage
from router.observe.explanations import Explanations
from router.observe.metrics import Metrics
from router.steer.arm_totals import Column
from router.steer.experiment import Assignment

if TYPE_CHECKING:
    from router.observe.tracing import Trace

log = structlog.get_logger()


class RequestRecord(msgspec.Struct, gc=False):  # nothing in it refers to it
    """Everything needed to explain one request, and no text of it. Times are monotonic seconds."""

    request_id: str
    path: str
    started: float = msgspec.field(default_factory=time.monotonic)
    trace: "Trace | None" = None
    """Where traces are sent."""
    tenant: str = ""
    scope: str = ""
    """Of `router.auth.Tenant`: with whom its tenant shares caches."""
    sees_caches: bool = True
    """Whether its answer carries headers about caches."""
    model: str = ""
    stream: bool = False
    prompt_tokens: int = 0
    exact: bool = False
    """Whether `prompt_tokens` was counted and not guessed."""
    assignment: Assignment | None = None
    """By which policy it was decided; None when it never came to a decision."""
    replica: str = ""
    reason: str = ""
    expected_cached_tokens: int = 0
    decision_seconds: float = 0.0
    held_seconds: float = 0.0
    """How long it waited in the router for room at an engine."""
    attempts: int = 0
    first_byte: float | None = None
    usage: Usage | None = None
    status: int = 0
    outcome: str = ""
    """ok, refused, failed, broken (after the first byte), or cancelled (the client left)."""
    error: str = ""
    prepare_seconds: float = 0.0
    """Rendering, tokenising and block keys."""
    decided: float | None = None
    sent: float | None = None
    """When the last attempt went to its engine."""
    prospect: Prospect | None = None
    """Until the request has ended: why tokens would be computed."""
    available_cached_tokens: int = 0
    """Of the prompt, the most that any replica of the model was believed to hold."""
    misses: Misses | None = None
    """Why tokens were computed again; None where the engine did not say what it had cached."""
    divergence: Divergence | None = None
    considered: Considered | None = None
    seconds_per_token: float = 0.0
    """The pace at which the replica computes prompts, as measured; 0 where it was not yet."""

    @property
    def policy(self) -> str:
        """Name of the policy that decided, or ""."""
        return self.assignment.policy_name if self.assignment else ""

    @property
    def arm(self) -> str:
        """``default``, ``control``, or "" when it never came to a decision."""
        return self.assignment.arm if self.assignment else ""


class Accounts:
    """Takes every finished record."""

    def __init__(
        self, explainer: Explainer, metrics: Metrics, explanations: Explanations, history: History
    ) -> None:
        self._explainer = explainer
        self._metrics = metrics
        self._explanations = explanations
        self._history = history
        self._log = log.bind()

    def finish(self, record: RequestRecord) -> None:
        """Add a finished request to sums, metrics and log."""
        ended = time.monotonic()
        ttft = record.first_byte - record.started if record.first_byte is not None else None
        usage, prospect, record.prospect = record.usage, record.prospect, None
        if usage is not None:
            record.misses = self._explainer.settle(prospect, usage, record.outcome == "ok")
        record.divergence = prospect.divergence if prospect is not None else None
        _count_for_experiment(record, ttft)
        self._metrics.observe(record, ttft)
        self._explanations.add(record, ttft, ended)
        self._history.add(record, ttft, time.time())
        if self._log.is_enabled_for(logging.INFO):
            self._log.info("request", **_event(record, ttft, ended))
        if record.trace is not None:
            record.trace.finish(record, ended)


def _event(record: RequestRecord, ttft: float | None, ended: float) -> dict[str, Any]:
    """What the log says of a request."""
    usage, divergence = record.usage, record.divergence
    return {
        "request_id": record.request_id,
        "path": record.path,
        "tenant": record.tenant or None,
        "model": record.model,
        "stream": record.stream,
        "policy": record.policy or None,
        "arm": record.arm or None,
        "replica": record.replica or None,
        "reason": record.reason or None,
        "attempts": record.attempts,
        "status": record.status,
        "outcome": record.outcome,
        "error": record.error or None,
        "prompt_tokens": usage.prompt_tokens if usage else record.prompt_tokens,
        "exact": record.exact,
        "available_cached_tokens": record.available_cached_tokens,
        "expected_cached_tokens": record.expected_cached_tokens,
        "delivered_cached_tokens": usage.cached_tokens if usage else None,
        "misses": record.misses,
        "divergence": msgspec.structs.asdict(divergence) if divergence else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "prepare_ms": round(record.prepare_seconds * 1000, 3),
        "decision_ms": round(record.decision_seconds * 1000, 3),
        "held_ms": round(record.held_seconds * 1000, 1),
        "ttft_ms": round(ttft * 1000, 1) if ttft is not None else None,
        "duration_ms": round((ended - record.started) * 1000, 1),
    }


def _count_for_experiment(record: RequestRecord, ttft: float | None) -> None:
    if record.assignment is None or record.assignment.totals is None:
        return
    values: dict[Column, float] = {
        Column.REQUESTS: 1,
        Column.FAILURES: record.outcome in ("failed", "broken"),
        Column.CANCELLED: record.outcome == "cancelled",
    }
    if record.usage is not None:
        values[Column.PROMPT_TOKENS] = record.usage.prompt_tokens
        values[Column.PREDICTED_CACHED_TOKENS] = record.expected_cached_tokens
        values[Column.DELIVERED_CACHED_TOKENS] = record.usage.cached_tokens or 0
    if record.stream and ttft is not None:
        values[Column.STREAMS] = 1
        values[Column.TTFT_SECONDS] = ttft
    record.assignment.totals.add(record.assignment.group, values)
