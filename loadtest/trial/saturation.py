"""The saturation sweep: what each arm serves as traffic grows, and how much of it within the goal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.trial.records import COLD_START, Round

SATURATED_TIMES = 4.0
"""An arm whose p95 TTFT is so many times the goal is not driven further."""
MAX_FAILED = 0.01
"""Share of requests that may fail before an arm counts as saturated."""


@dataclass(frozen=True, slots=True)
class Step:
    """One arm at one rate. Seconds, except for rates."""

    arm: str
    rate: float
    """New conversations per second."""
    ttft: dict[int, float]
    """TTFT by percentile: 50, 95, 99. NaN when nothing was answered."""
    requests: int
    requests_per_second: float
    """Answered to their end in the steady part of the round: what the fleet gave."""
    time_per_output_token: float
    """Median over answers."""
    hit_rate: float
    failed: int
    cut_off: int
    goal: float

    @property
    def within_goal(self) -> bool:
        """Whether p95 of the TTFT is within the goal, and next to nothing failed."""
        return self.ttft[95] <= self.goal and self.failed <= MAX_FAILED * self.requests

    @property
    def saturated(self) -> bool:
        """Whether more traffic would only lengthen the queue."""
        return not self.ttft[95] <= SATURATED_TIMES * self.goal or self.failed > MAX_FAILED * self.requests


def step_of(one: Round, goal: float) -> Step:
    """One round of the sweep in figures: what was sent while the fleet was steady, between the first third of
    the round and the moment from which no further conversation begins."""
    begin = COLD_START * one.seconds
    steady = [answer for answer in one.answers if begin <= answer.sent <= one.seconds]
    good = [answer for answer in steady if not answer.error]
    ttfts = [answer.ttft for answer in good] or [math.nan]
    in_time = [answer for answer in one.good if begin <= answer.sent + answer.latency <= one.seconds]
    length = one.seconds - begin
    paces = [pace for answer in good if (pace := answer.time_per_output_token) is not None]
    prompts = sum(answer.prompt_tokens for answer in good)
    return Step(
        arm=one.arm,
        rate=one.rate,
        ttft={percent: float(np.percentile(ttfts, percent)) for percent in (50, 95, 99)},
        requests=len(steady),
        requests_per_second=len(in_time) / length,
        time_per_output_token=float(np.median(paces or [math.nan])),
        hit_rate=sum(answer.cached_tokens for answer in good) / prompts if prompts else math.nan,
        failed=len(steady) - len(good),
        cut_off=one.cut_off,
        goal=goal,
    )


@dataclass(frozen=True, slots=True)
class Sustained:
    """The highest rate that one arm serves within the goal."""

    arm: str
    rate: float
    """New conversations per second; 0 when it missed the goal everywhere."""
    at_least: bool
    """Whether no rate was tried that it does not serve: it may serve more."""


def sustained(steps: Sequence[Step], arm: str) -> Sustained:
    """Between the last rate within the goal and the first beyond: where p95, taken as growing exponentially
    with the rate, crosses the goal."""
    own = sorted((step for step in steps if step.arm == arm), key=lambda step: step.rate)
    held: Step | None = None
    for step in own:
        if not step.within_goal:
            return Sustained(arm, _crossing(held, step) if held else 0.0, at_least=False)
        held = step
    return Sustained(arm, held.rate if held else 0.0, at_least=held is not None)


def _crossing(held: Step, missed: Step) -> float:
    low, high = held.ttft[95], missed.ttft[95]
    if not low < held.goal < high:  # it failed requests, or lies on the goal
        return held.rate
    share = math.log(held.goal / low) / math.log(high / low)
    return held.rate + share * (missed.rate - held.rate)
