"""The JSON of the admin API. Times are seconds since 1970; counts are tokens unless they say otherwise; rates
lie between 0 and 1 and are null where nothing was counted.
"""

from typing import Any

from pydantic import BaseModel
from typing_extensions import TypedDict  # pydantic cannot read that of Python before 3.12

from router.explain.misses import Reason

MissTokens = dict[Reason, int]
"""Tokens computed again by reason, all eight."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every error, as in the rest of the API."""

    error: ErrorDetail


class PolicyAnswer(TypedDict):
    """The policy in force."""

    policy: str
    set_by: str
    setting: str
    policies: list[str]
    experiment: dict[str, Any] | None


class ExperimentAnswer(TypedDict):
    """What an experiment shows, over all routers."""

    experiment: dict[str, Any] | None


class ExperimentEndedAnswer(ExperimentAnswer):
    """The last figures of an experiment that has just ended."""

    ended: dict[str, Any] | None


class PrefixAnswer(TypedDict):
    """A beginning that many prompts share: its last block, and how long it is."""

    key: str
    model: str
    tokens: int
    holders: list[str]
    share: float
    prompts: float


class PrefixesAnswer(TypedDict):
    """The hottest first."""

    prefixes: list[PrefixAnswer]


class RequestSummary(TypedDict):
    """What became of one request."""

    request_id: str
    time: float
    path: str
    tenant: str
    model: str
    replica: str
    policy: str
    arm: str
    reason: str
    outcome: str
    status: int
    stream: bool
    prompt_tokens: int
    available_tokens: int
    predicted_tokens: int
    delivered_tokens: int | None
    completion_tokens: int | None
    ttft_ms: float | None
    duration_ms: float
    held_ms: float
    decision_ms: float
    prepare_ms: float
    attempts: int
    main_miss: Reason | None


class DivergenceAnswer(TypedDict):
    """Where a conversation differs from what was sent of it before."""

    token: int
    message: int
    role: str
    kind: str


class CandidateAnswer(TypedDict):
    """One replica as the decision saw it."""

    replica: str
    chosen: bool
    eligible: bool
    last_replica: bool
    cached_tokens: int
    queued_tokens: int
    running: int
    cost: float | None


class RequestExplanation(RequestSummary):
    """And why."""

    router: str
    misses: MissTokens | None
    divergence: DivergenceAnswer | None
    candidates: list[CandidateAnswer]
    num_candidates: int
    caches_seen: bool
    error: str


class RequestsAnswer(TypedDict):
    """The newest first."""

    requests: list[RequestSummary]


class AuditEntry(TypedDict):
    """One change that an operator has made."""

    time: float
    action: str
    target: str
    detail: str
    by: str
    router: str


class AuditAnswer(TypedDict):
    """The newest first."""

    entries: list[AuditEntry]


class DrainAnswer(TypedDict):
    """What is in force for a replica now."""

    replica: str
    drained: bool
    running: int


class ReplicaResetAnswer(TypedDict):
    """The blocks of a replica are being read again."""

    replica: str
    reset: float


class PrefixResetAnswer(TypedDict):
    """Nobody is believed to hold this block, until an engine announces it again."""

    key: str
    reset: float
