"""What one simulated run showed: every request, and figures over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it. Times are virtual seconds since the workload began."""

    arrival: float
    first_token: float
    """Infinite when the request failed before its first token."""
    end: float
    """The last token, or the failure."""
    replica: str
    """The one that answered, or was tried last."""
    reason: str
    """The reason that the last decision gave."""
    prompt_tokens: int
    expected_tokens: int
    """Prompt tokens the replica was believed to hold at the decision."""
    hit_tokens: int
    """Prompt tokens the engine found in its cache."""
    available_tokens: int
    """The most that any eligible replica was believed to hold at the decision."""
    conversation_key: int
    tenant: int
    router: int
    attempts: int
    failed: bool
    """Whether the answer was not delivered to its end."""


@dataclass(frozen=True, slots=True)
class ReplicaTotals:
    """One replica over a whole run."""

    busy_seconds: float
    """Time in engine steps."""
    prefilled_tokens: int
    evicted_blocks: int
    preemptions: int


@dataclass(frozen=True, slots=True)
class Run:
    """One policy on one workload."""

    policy: str
    workload: str
    load: float
    """How many times as often as in the original workload sessions started."""
    seed: int
    answers: Sequence[Answer]
    """In the order in which they ended."""
    replicas: Mapping[str, ReplicaTotals]
    seconds: float
    """Virtual seconds from the start of the workload to the last answer."""

    def ttft(self) -> NDArray[np.float64]:
        """Seconds to the first token of every request that got one."""
        answers = (answer for answer in self.answers if isfinite(answer.first_token))
        return np.array([answer.first_token - answer.arrival for answer in answers], dtype=np.float64)

    @property
    def hit_rate(self) -> float:
        """Share of all prompt tokens that engines found in their caches."""
        prompt = sum(answer.prompt_tokens for answer in self.answers)
        return sum(answer.hit_tokens for answer in self.answers) / prompt if prompt else 0.0

    @property
    def utilisation(self) -> float:
        """Mean share of time in which replicas were in a step."""
        busy = sum(totals.busy_seconds for totals in self.replicas.values())
        return busy / len(self.replicas) / self.seconds if busy else 0.0

    @property
    def imbalance(self) -> float:
        """Prompt tokens computed by the busiest replica over the mean; 1 is perfect balance."""
        computed = [totals.prefilled_tokens for totals in self.replicas.values()]
        return max(computed) * len(computed) / sum(computed) if any(computed) else 1.0

    @property
    def failures(self) -> int:
        """Requests that were not answered to their end."""
        return sum(answer.failed for answer in self.answers)
