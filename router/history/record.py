"""What is known of one request: filled in on its way, read by everything that counts or shows requests."""

import time
from typing import Protocol

import msgspec

from router.explain.explainer import Prediction
from router.explain.misses import Considered, Divergence, Misses
from router.http.sse import Usage
from router.steer.experiment import Assignment
from router.tenants.keys import Tenant

EVERYBODY = Tenant()


class Trace(Protocol):
    """Where the spans of one request go."""

    def headers(self) -> dict[str, str]:
        """What the request to the engine carries of it."""

    def finish(self, record: "RequestRecord", ended: float) -> None:
        """The request has ended, at a monotonic time in seconds."""


class RequestRecord(msgspec.Struct, gc=False):  # nothing in it refers to it
    """Everything needed to explain one request, and no text of it. Times are monotonic seconds."""

    request_id: str
    """No other request has it, whatever clients send."""
    path: str
    started: float = msgspec.field(default_factory=time.monotonic)
    client_id: str = ""
    """What the client itself calls the request; it may have others of that name."""
    trace: Trace | None = None
    """Where traces are sent."""
    tenant: str = ""
    rights: Tenant = EVERYBODY
    """What its tenant may use, and with whom it shares caches."""
    prompt: str = ""
    """The version of a prompt that it names."""
    model: str = ""
    """The model that serves it; "" where there is none of that name."""
    asked_model: str = ""
    """As the client wrote it."""
    stream: bool = False
    prompt_tokens: int = 0
    exact: bool = False
    """Whether `prompt_tokens` was counted and not guessed."""
    continuation: str = ""
    """``exact`` where the engine got the tokens of the turn before, else what kept it from that; "" where
    nobody asked for it."""
    assignment: Assignment | None = None
    """By which policy it was decided; None when it never came to a decision."""
    replica: str = ""
    reason: str = ""
    expected_cached_tokens: int = 0
    decision_seconds: float = 0.0
    held_seconds: float = 0.0
    """How long it waited in the router for room at an engine."""
    paused_seconds: float = 0.0
    """The part of that in which it waited for room in KV memory, before it was decided."""
    attempts: int = 0
    first_byte: float | None = None
    usage: Usage | None = None
    status: int = 0
    outcome: str = ""
    """ok, refused, failed, broken (after the first byte), or cancelled (the client left, or the
    router stopped)."""
    error: str = ""
    prepare_seconds: float = 0.0
    """Rendering, tokenising and block keys."""
    decided: float | None = None
    sent: float | None = None
    """When the last attempt went to its engine."""
    prediction: Prediction | None = None
    """Why tokens would be computed; kept until the request has ended."""
    available_cached_tokens: int = 0
    """The most tokens of the prompt that any replica of the model was believed to hold."""
    misses: Misses | None = None
    """Why tokens were computed again; None where the engine did not report what it had cached."""
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
