"""What became of every request: one record each, in metrics, in a running experiment, and in one log line."""

import logging
import time
from typing import Any

import msgspec
import structlog

from cluster.apis.breakpoints import KnownBreakpoints
from router.explain.explainer import Explainer
from router.history.history import History
from router.history.record import RequestRecord
from router.observe.explanations import Explanations
from router.observe.metrics import Metrics
from router.steer.arm_totals import ArmColumn

log = structlog.get_logger()


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
        self.breakpoints = KnownBreakpoints()

    def finish(self, record: RequestRecord) -> None:
        """Add a finished request to sums, metrics and log."""
        ended = time.monotonic()
        ttft = None
        if record.stream and record.first_byte is not None:  # any other answer has no first token
            ttft = record.first_byte - record.started
        usage, prediction, record.prediction = record.usage, record.prediction, None
        if usage is not None:
            record.misses = self._explainer.reconcile(prediction, usage, record.outcome == "ok")
        record.divergence = prediction.divergence if prediction is not None else None
        _count_for_experiment(record, ttft)
        self._metrics.observe(record, ttft)
        self._history.add(record, ttft, time.time())
        self._explanations.add(record, ttft, ended)
        if self._log.is_enabled_for(logging.INFO):
            self._log.info("request_finished", **_event(record, ttft, ended))
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
        "continuation": record.continuation or None,
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
    values: dict[ArmColumn, float] = {
        ArmColumn.REQUESTS: 1,
        ArmColumn.FAILURES: record.outcome in ("failed", "broken"),
        ArmColumn.CANCELLED: record.outcome == "cancelled",
    }
    if record.usage is not None:
        values[ArmColumn.PROMPT_TOKENS] = record.usage.prompt_tokens
        values[ArmColumn.PREDICTED_CACHED_TOKENS] = record.expected_cached_tokens
        values[ArmColumn.DELIVERED_CACHED_TOKENS] = record.usage.cached_tokens or 0
    if ttft is not None:
        values[ArmColumn.STREAMS] = 1
        values[ArmColumn.TTFT_SECONDS] = ttft
    record.assignment.totals.add(record.assignment.group, values)
