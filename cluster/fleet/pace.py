"""How fast replicas are, compared with each other: measured by how soon prompts are computed on them."""

from collections.abc import Sequence

import numpy as np

from policies.choice import REQUEST_TOKENS
from policies.types import Costs

DECAY = 0.98
"""What remains of the past with every prompt: about the last fifty count."""
HALF_LIFE_SECONDS = 20.0
"""Measurements that no new ones follow fade: what was slow is avoided, and would never be measured again."""
STEP_TOKENS = 128.0
"""What an engine step costs besides its tokens."""
PRIOR_TOKENS = 5_000.0
"""Work at the fleet's own pace with which every replica begins."""
TOLERANCE = 1.25
"""Replicas this close to the middle count as equal: below it lies what chance and batching do."""


class Pace:
    """Seconds of waiting for so many tokens of work, the past fading."""

    def __init__(self) -> None:
        self.tokens = 0.0
        self.seconds = 0.0
        self.observed_at = 0.0
        """Monotonic time in seconds."""

    @property
    def seconds_per_token(self) -> float:
        """Seconds that a token of work takes; 0 before the first measurement."""
        return self.seconds / self.tokens if self.tokens else 0.0

    def observe(self, queued_tokens: int, running: int, seconds: float, now: float) -> None:
        """A first token came so long after its request was sent, behind so much work in all."""
        work = queued_tokens + REQUEST_TOKENS * running + STEP_TOKENS
        self.tokens = self.tokens * DECAY + work
        self.seconds = self.seconds * DECAY + seconds
        self.observed_at = now


def relative_paces(paces: Sequence[Pace], now: float) -> Costs:
    """Time per token of each replica over that of the one in the middle; 1 where it is not known."""
    tokens = np.array([pace.tokens for pace in paces])
    seconds = np.array([pace.seconds for pace in paces])
    age = now - np.array([pace.observed_at for pace in paces])
    known = tokens > 0
    middle = float(np.median(seconds[known] / tokens[known])) if known.sum() > 1 else 0.0
    relative = np.ones(len(paces))
    if middle:
        fading = 0.5 ** (age / HALF_LIFE_SECONDS)
        relative = (seconds / middle * fading + PRIOR_TOKENS) / (tokens * fading + PRIOR_TOKENS)
        relative[(relative <= TOLERANCE) & (relative >= 1 / TOLERANCE)] = 1.0
    relative.flags.writeable = False
    return relative
