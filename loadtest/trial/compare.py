"""Two arms that held the same conversations, compared figure by figure, round by round."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from loadtest.trial.records import Answer, Trial
from loadtest.trial.statistics import Floats, Interval, interval_over, rounds_needed

MIN_ROUNDS = 4
"""With fewer rounds of each arm nothing is known of how much rounds differ."""
MIN_CONVERSATIONS = 40
MIN_BEYOND = 10
"""Requests that must lie beyond a percentile, in all rounds together; one in each."""


class Outcome(StrEnum):
    """What may be concluded of one figure."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"
    """The interval holds "no difference"."""
    TOO_FEW = "too few"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure that arms are compared in."""

    key: str
    label: str
    share: float | None = None
    """The share of requests that are not slower, for percentiles."""
    whole_answer: bool = False
    """Percentiles of the time to the end of the answer, instead of the TTFT."""

    @property
    def is_ratio(self) -> bool:
        """Whether arms are compared by how many times as large, and not by a difference."""
        return self.key != "hit_rate"

    def of(self, answers: Sequence[Answer]) -> float:
        """What it is of some answers; NaN where there is nothing to tell."""
        if not self.is_ratio:
            prompts = sum(answer.prompt_tokens for answer in answers)
            return sum(answer.cached_tokens for answer in answers) / prompts if prompts else math.nan
        times = [answer.latency if self.whole_answer else answer.ttft for answer in answers]
        times = [seconds for seconds in times if not math.isnan(seconds)]
        if not times or self.share is None:
            return float(np.mean(times)) if times else math.nan
        return float(np.quantile(times, self.share, method="inverted_cdf"))


FIGURES = (
    Figure("ttft_p50", "TTFT p50", 0.5),
    Figure("ttft_p95", "TTFT p95", 0.95),
    Figure("ttft_p99", "TTFT p99", 0.99),
    Figure("ttft_mean", "TTFT mean"),
    Figure("answer_p50", "Answer p50", 0.5, whole_answer=True),
    Figure("answer_p95", "Answer p95", 0.95, whole_answer=True),
    Figure("hit_rate", "Hit rate"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of ours beside that of a control."""

    control: str
    figure: Figure
    theirs: float
    """Seconds, or a share; of all rounds."""
    ours: float
    gain: Interval
    """How many times as long theirs takes, the geometric mean of rounds; of hit rates, ours less theirs."""
    rounds: int
    conversations: int
    requests: int
    outcome: Outcome
    needed: int | None
    """Rounds of each arm with which the difference that is looked for would be found."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The answers of ours and of a control to the same conversations, round by round."""

    ours: Sequence[Sequence[Answer]]
    theirs: Sequence[Sequence[Answer]]
    conversations: int

    @property
    def requests(self) -> int:
        """Requests of the arm that has fewer."""
        return min(sum(map(len, rounds)) for rounds in (self.ours, self.theirs))

    def differences(self, value: Callable[[Sequence[Answer]], float]) -> Floats:
        """Ours less theirs in each round."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return np.array([value(ours) - value(theirs) for ours, theirs in pairs])


def paired(trial: Trial, control: str) -> Pair:
    """What both arms have answered: the conversations that both have held of each round."""
    ours: list[list[Answer]] = []
    theirs: list[list[Answer]] = []
    conversations = 0
    rounds = {(one.arm, one.number): one.good for one in trial.rounds}
    for number in sorted({one.number for one in trial.rounds}):
        both = [rounds.get((arm, number), []) for arm in (trial.ours, control)]
        shared = {answer.conversation for answer in both[0]} & {answer.conversation for answer in both[1]}
        if shared:
            conversations += len(shared)
            for kept, answers in zip((ours, theirs), both, strict=True):
                kept.append([answer for answer in answers if answer.conversation in shared])
    return Pair(ours, theirs, conversations)


def compare_all(trial: Trial) -> list[Comparison]:
    """Ours with every control, in every figure.

    All intervals of a trial hold together in 95% of cases, so that a trial of equal arms finds a difference,
    in any figure, at most once in twenty times.
    """
    pairs = {control: paired(trial, control) for control in trial.controls}
    asked = [(c, p, f) for c, p in pairs.items() if p.conversations for f in FIGURES]
    judged = sum(_enough(pair, figure) for _, pair, figure in asked)
    return [_compare(*one, trial.difference, max(judged, 1)) for one in asked]


def rounds_for(comparisons: Sequence[Comparison]) -> int | None:
    """Rounds of each arm that the wanted difference in the median TTFT needs."""
    needed = [one.needed for one in comparisons if one.figure.key == "ttft_p50"]
    return max((one for one in needed if one), default=None)


def _compare(control: str, pair: Pair, figure: Figure, difference: float, judged: int) -> Comparison:
    def value(answers: Sequence[Answer]) -> float:
        found = figure.of(answers)
        return -math.log(found) if figure.is_ratio else found

    differences = pair.differences(value)
    gain = interval_over(differences, judged)
    outcome = Outcome.TOO_FEW
    if _enough(pair, figure) and not math.isnan(gain.low):
        outcome = Outcome.BETTER if gain.estimate > 0 else Outcome.WORSE
        if gain.holds(0.0):
            outcome = Outcome.UNDECIDED
    rounds = len(differences)
    spread = float(differences.std(ddof=1)) if rounds > 1 else math.nan
    wanted = math.log1p(difference) if figure.is_ratio else difference
    return Comparison(
        control=control,
        figure=figure,
        theirs=figure.of([answer for answers in pair.theirs for answer in answers]),
        ours=figure.of([answer for answers in pair.ours for answer in answers]),
        gain=gain.exponential() if figure.is_ratio else gain,
        rounds=rounds,
        conversations=pair.conversations,
        requests=pair.requests,
        outcome=outcome,
        needed=_needed(spread, wanted, judged) if rounds >= MIN_ROUNDS else MIN_ROUNDS,
    )


def _needed(spread: float, difference: float, judged: int) -> int | None:
    needed = rounds_needed(spread, difference, judged)
    return max(needed, MIN_ROUNDS) if needed else None


def _enough(pair: Pair, figure: Figure) -> bool:
    beyond = 1 - figure.share if figure.share else 1.0
    least = min((len(answers) for answers in (*pair.ours, *pair.theirs)), default=0)
    return (
        len(pair.ours) >= MIN_ROUNDS
        and pair.conversations >= MIN_CONVERSATIONS
        and pair.requests * beyond >= MIN_BEYOND - 1e-9
        and least * beyond >= 1 - 1e-9
    )
