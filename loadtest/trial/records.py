"""What a trial measures: answers, round by round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

COLD_START = 1 / 3
"""The part of a round in which the fleet fills its empty caches."""


class Warmth(StrEnum):
    """How much of its prompt a request found in a cache."""

    COLD = "cold"
    """It found nothing."""
    PARTLY = "partly"
    WARM = "warm"
    """It found at least half of its prompt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it. Times in seconds, prompts in tokens."""

    conversation: str
    """The conversation's name, the same in all arms, since they hold the same conversations."""
    turn: int
    sent: float
    """When it was sent, after the round began."""
    ttft: float
    """The time to the first token with text; NaN when there was none."""
    latency: float
    """The time to the end of the answer."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens which the engine says it had in its cache."""
    output_tokens: int = 0
    replica: str = ""
    """Empty where the server does not say."""
    error: str = ""
    """Why it was not answered to its end; empty when it was."""

    @property
    def warmth(self) -> Warmth:
        """Cold, warm, or neither."""
        if not self.cached_tokens:
            return Warmth.COLD
        return Warmth.WARM if 2 * self.cached_tokens >= self.prompt_tokens else Warmth.PARTLY

    @property
    def time_per_output_token(self) -> float | None:
        """Mean seconds from one token to the next; None for answers of one token, and for failures."""
        if self.error or self.output_tokens < 2:
            return None
        return (self.latency - self.ttft) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the load generator's own event loop ran, in seconds."""

    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Round:
    """One arm, one portion of the traffic."""

    arm: str
    number: int
    """Rounds with the same number hold the same conversations."""
    rate: float
    """New conversations per second, where they arrive at a rate."""
    seconds: float
    """How long conversations began."""
    duration: float
    """The time until the last answer."""
    answers: Sequence[Answer]
    lag: Lag
    cut_off: int = 0
    """Conversations that had not ended when the round's time was up."""
    others: float = 0.0
    """Share of the generator's machine that processes of others took."""

    @property
    def good(self) -> list[Answer]:
        """The answers that came to their end."""
        return [answer for answer in self.answers if not answer.error]


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt on an idle fleet, twice: nothing in any cache, then the same again."""

    cold: Answer
    again: Answer


@dataclass(frozen=True, slots=True)
class Trial:
    """Everything that was measured. The last arm is the one that the others are compared with."""

    title: str
    command: str
    arms: Sequence[str]
    probes: Sequence[Probe]
    rounds: Sequence[Round]
    sweep: Sequence[Round]
    facts: Mapping[str, str] = field(default_factory=dict)
    difference: float = 0.1
    """The smallest one that is to be found: 0.1 is 10%."""

    @property
    def controls(self) -> Sequence[str]:
        """All arms but the last."""
        return self.arms[:-1]

    @property
    def ours(self) -> str:
        """The last arm."""
        return self.arms[-1]

    def answers(self, arm: str, started: bool | None = None) -> list[Answer]:
        """All good answers of an arm, without those of the sweep; or only those that were sent while caches
        filled (``started`` is False), or after that."""
        return [
            answer
            for one in self.rounds
            if one.arm == arm
            for answer in one.good
            if started is None or started == (answer.sent >= COLD_START * one.seconds)
        ]
