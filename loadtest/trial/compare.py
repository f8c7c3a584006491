"""Two arms that held the same conversations, compared figure by figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from loadtest.trial.records import Answer, Trial
from loadtest.trial.statistics import (
    Floats,
    Interval,
    Sample,
    clusters_needed,
    draw_counts,
    interval_of,
    ratio_draws,
    shared_clusters,
)

MIN_CONVERSATIONS = 40
"""With fewer conversations the interval itself cannot be trusted."""
MIN_BEYOND = 10
"""Requests that must lie beyond a percentile."""


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
    """Seconds, or a share."""
    ours: float
    gain: Interval
    """How many times as long theirs takes; of hit rates, ours less theirs."""
    conversations: int
    requests: int
    outcome: Outcome
    needed: int | None
    """Conversations with which a difference like this one would be found in 80% of cases."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The answers of ours and of a control to the same conversations."""

    ours: Sequence[Answer]
    theirs: Sequence[Answer]
    clusters_of_ours: NDArray[np.int64]
    clusters_of_theirs: NDArray[np.int64]
    clusters: int

    @property
    def requests(self) -> int:
        """Requests of the arm that has fewer."""
        return min(len(self.ours), len(self.theirs))


def paired(trial: Trial, control: str) -> Pair:
    """What both arms have answered, by conversation: a round's number and the conversation's name."""
    named = {
        arm: [
            (f"{one.number}:{answer.conversation}", answer)
            for one in trial.rounds
            if one.arm == arm
            for answer in one.good
        ]
        for arm in (trial.ours, control)
    }
    shared = shared_clusters(*([name for name, _ in answers] for answers in named.values()))
    kept = [
        [(answer, shared[name]) for name, answer in answers if name in shared] for answers in named.values()
    ]
    ours, theirs = kept
    return Pair(
        [answer for answer, _ in ours],
        [answer for answer, _ in theirs],
        np.array([cluster for _, cluster in ours], dtype=np.int64),
        np.array([cluster for _, cluster in theirs], dtype=np.int64),
        len(shared),
    )


def compare_all(trial: Trial) -> list[Comparison]:
    """Ours with every control, in every figure."""
    comparisons = []
    for control in trial.controls:
        pair = paired(trial, control)
        if pair.clusters:
            counts = draw_counts(pair.clusters)
            comparisons += [_compare(control, pair, figure, counts) for figure in FIGURES]
    return comparisons


def _compare(control: str, pair: Pair, figure: Figure, counts: NDArray[np.int64]) -> Comparison:
    ours, our_draws = figure_draws(pair.ours, pair.clusters_of_ours, pair.clusters, figure, counts)
    theirs, their_draws = figure_draws(pair.theirs, pair.clusters_of_theirs, pair.clusters, figure, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        if figure.is_ratio:
            logs = np.log(their_draws / our_draws)
            seen = math.log(theirs / ours) if theirs > 0 and ours > 0 else math.nan
            inner = interval_of(seen, logs)
            gain = Interval(*(math.exp(value) for value in (inner.estimate, inner.low, inner.high)))
        else:
            logs, seen = our_draws - their_draws, ours - theirs
            gain = inner = interval_of(seen, logs)
    return Comparison(
        control=control,
        figure=figure,
        theirs=theirs,
        ours=ours,
        gain=gain,
        conversations=pair.clusters,
        requests=pair.requests,
        outcome=_outcome(inner, pair, figure),
        needed=clusters_needed(seen, float(np.std(logs)), pair.clusters),
    )


def _outcome(gain: Interval, pair: Pair, figure: Figure) -> Outcome:
    beyond = pair.requests * (1 - figure.share) if figure.share else MIN_BEYOND
    if pair.clusters < MIN_CONVERSATIONS or beyond < MIN_BEYOND - 1e-9 or math.isnan(gain.low):
        return Outcome.TOO_FEW
    if gain.holds(0.0):
        return Outcome.UNDECIDED
    return Outcome.BETTER if gain.estimate > 0 else Outcome.WORSE


def figure_draws(
    answers: Sequence[Answer],
    clusters: NDArray[np.int64],
    num_clusters: int,
    figure: Figure,
    counts: NDArray[np.int64],
) -> tuple[float, Floats]:
    """One figure of one arm, and what it is in every draw."""
    if figure.share is not None:
        times = [answer.latency if figure.whole_answer else answer.ttft for answer in answers]
        sample = Sample(np.array(times), clusters)
        return sample.quantile(figure.share), sample.quantile_draws(figure.share, counts)
    if figure.key == "hit_rate":
        over = np.array([answer.cached_tokens for answer in answers], dtype=float)
        under = np.array([answer.prompt_tokens for answer in answers], dtype=float)
    else:
        over = np.array([answer.ttft for answer in answers])
        under = np.ones(len(answers))
    overs, unders = (Sample(values, clusters).sums(num_clusters) for values in (over, under))
    estimate = float(over.sum() / under.sum()) if under.sum() else math.nan
    return estimate, ratio_draws(overs, unders, counts)
