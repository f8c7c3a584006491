"""The format of scenario files: every field, its unit and its limits."""

import math
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from loadtest.workloads.draws import Lengths

MAX_TOKENS = 1_000_000
"""The most tokens of one text."""
MAX_COUNT = 100_000
"""The most shared texts, and the most tenants."""
NAME = r"^[a-z][a-z0-9-]{0,31}$"

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Table(BaseModel):
    """A table of a scenario file. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Range(Table):
    """Whole numbers: lognormal, moved to the nearest limit where they fall outside."""

    median: float = Field(ge=1, le=MAX_TOKENS)
    sigma: float = Field(ge=0, le=5)
    """Standard deviation of the logarithm: about the relative spread."""
    low: int = Field(ge=1, le=MAX_TOKENS)
    high: int = Field(ge=1, le=MAX_TOKENS)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.median <= self.high:
            raise ValueError("low, median and high must be in this order")
        return self

    @property
    def lengths(self) -> Lengths:
        """What the generators draw from."""
        return Lengths(self.median, self.sigma, self.low, self.high)


def _fixed(value: object) -> object:
    """A bare number is a range of one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"median": value, "sigma": 0, "low": value, "high": value}
    return value


Numbers = Annotated[Range, BeforeValidator(_fixed)]
"""A range, or one number that never changes."""


class Shared(Table):
    """Texts of which each conversation takes one: the n-th ``1 / n**exponent`` as often as the first."""

    count: int = Field(1, ge=1, le=MAX_COUNT)
    exponent: float = Field(1.0, ge=0, le=5)
    tokens: Numbers


class Tenants(Table):
    """Customers of which each has system prompts of its own; popular as `Shared` says."""

    count: int = Field(ge=1, le=MAX_COUNT)
    exponent: float = Field(1.0, ge=0, le=5)


class ThinkTimes(Table):
    """Pauses: exponential around a mean, or uniform in the logarithm between two limits."""

    mean_seconds: Seconds | None = None
    shortest_seconds: Seconds | None = None
    longest_seconds: Seconds | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        limits = (self.shortest_seconds, self.longest_seconds)
        if (self.mean_seconds is None) == (limits == (None, None)):
            raise ValueError("give either mean_seconds, or shortest_seconds and longest_seconds")
        if self.mean_seconds is None:
            if None in limits:
                raise ValueError("shortest_seconds and longest_seconds belong together")
            shortest, longest = self.limits
            if shortest > longest:
                raise ValueError("shortest_seconds is more than longest_seconds")
        return self

    @property
    def limits(self) -> tuple[float, float]:
        """Shortest and longest, in seconds, where these are given."""
        return self.shortest_seconds or math.nan, self.longest_seconds or math.nan


class Burst(Table):
    """Requests that go out in the same moment about the same history, each with an instruction of its own."""

    share: float = Field(ge=0, le=1)
    """The share of the conversations that do so, at each of their turns."""
    most: int = Field(ge=1, le=64)
    """Further requests beside the main one, at least 1."""
    instruction: Numbers
    """Tokens at the end of each."""


class UserKind(Table):
    """One kind of users. All lengths are tokens of text, without what a chat template adds."""

    weight: int = Field(1, ge=1, le=1_000_000)
    """How many of the users are of this kind, in proportion."""
    system_prompts: Shared | None = None
    documents: Shared | None = None
    """One stands before the first question of each conversation."""
    turns: Numbers = Range(median=1, sigma=0, low=1, high=1)
    """Requests of a conversation, one after the other."""
    question: Numbers
    """What each turn adds: a user's words, or the output of an agent's tool."""
    first_question: Numbers | None = None
    """What the first turn adds, where it differs: an agent's task."""
    answer: Numbers
    """What is asked for (``max_tokens``). Engines may stop earlier."""
    think: ThinkTimes
    """The pause before each turn but the first; a user who begins another conversation pauses likewise."""
    burst: Burst | None = None
    tenants: Tenants | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.turns.high > 1000:
            raise ValueError("turns: at most 1000")
        if self.tenants and not self.system_prompts:
            raise ValueError("tenants: need system_prompts")
        return self


class Arrivals(Table):
    """How conversations begin where they are not held by a fixed number of users."""

    conversations_per_second: float = Field(gt=0, le=100_000)
    seconds: Seconds
    """How long new ones arrive; open ones are held to their end."""


class Specification(Table):
    """A scenario file."""

    description: str = Field(min_length=1, max_length=500)
    arrivals: Arrivals
    users: dict[Annotated[str, Field(pattern=NAME)], UserKind] = Field(min_length=1, max_length=64)
