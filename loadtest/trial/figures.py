"""A trial in figures: each arm, all its requests and by how warm they were; and what a cache is worth."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.trial.compare import paired
from loadtest.trial.money import Price, Savings, prefill_seconds_per_token, savings
from loadtest.trial.records import Answer, Probe, Trial, Warmth
from loadtest.trial.statistics import Floats, Interval, Sample, Slope, draw_counts, interval_of, ratio_draws

PERCENTILES = (50, 95, 99)
FULL_PROBE = 0.9
"""Share of the longest prompt from which on a probe is compared with its repetition."""
MIN_FULL_PROBES = 8


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """Some requests of one arm. Seconds; NaN where there is nothing to tell."""

    arm: str
    warmth: Warmth | None
    """None: all requests."""
    requests: int
    share: float
    """The share of all requests of the arm."""
    failures: int
    ttft: dict[int, float]
    """TTFT by percentile."""
    ttft_mean: float
    time_per_output_token: float
    """Median over answers."""
    latency: float
    """Median."""
    hit_rate: float


def figures_of(trial: Trial, arm: str, warmth: Warmth | None = None) -> ArmFigures:
    """One arm's requests, or those of them that were so warm."""
    everything = trial.answers(arm)
    chosen = [answer for answer in everything if warmth is None or answer.warmth is warmth]
    ttfts = [answer.ttft for answer in chosen] or [math.nan]
    paces = [pace for answer in chosen if (pace := answer.time_per_output_token) is not None]
    prompts = sum(answer.prompt_tokens for answer in chosen)
    sent = sum(len(one.answers) for one in trial.rounds if one.arm == arm)
    return ArmFigures(
        arm=arm,
        warmth=warmth,
        requests=len(chosen),
        share=len(chosen) / max(len(everything), 1),
        failures=sent - len(everything) if warmth is None else 0,
        ttft={percent: float(np.percentile(ttfts, percent)) for percent in PERCENTILES},
        ttft_mean=float(np.mean(ttfts)),
        time_per_output_token=float(np.median(paces or [math.nan])),
        latency=float(np.median([answer.latency for answer in chosen] or [math.nan])),
        hit_rate=sum(answer.cached_tokens for answer in chosen) / prompts if prompts else math.nan,
    )


@dataclass(frozen=True, slots=True)
class ReplicaShare:
    """What one replica did for one arm."""

    replica: str
    requests: int
    computed_tokens: int
    """Prompt tokens that were in no cache."""
    hit_rate: float


def replica_shares(trial: Trial, arm: str, replicas: Sequence[str]) -> list[ReplicaShare]:
    """In the order of the names; a replica that answered nothing has no hit rate, 0."""
    requests: Counter[str] = Counter()
    prompts: Counter[str] = Counter()
    cached: Counter[str] = Counter()
    for answer in trial.answers(arm):
        if answer.replica:
            requests[answer.replica] += 1
            prompts[answer.replica] += answer.prompt_tokens
            cached[answer.replica] += answer.cached_tokens
    return [
        ReplicaShare(name, requests[name], prompts[name] - cached[name], cached[name] / max(prompts[name], 1))
        for name in replicas
    ]


@dataclass(frozen=True, slots=True)
class CacheWorth:
    """What the same prompts take on an idle fleet: in no cache, and again."""

    probes: int
    prompt_tokens: float
    """Median of those that were not cut."""
    cold: float
    """Median TTFT."""
    warm: float
    gain: Interval
    """How many times as long cold takes."""
    prefill: Slope | None
    """Seconds per uncached token."""


def cache_worth(probes: Sequence[Probe]) -> CacheWorth | None:
    """None with fewer than eight whole prompts that were cold, and then found again."""
    pairs = [
        probe for probe in probes if probe.again.warmth is Warmth.WARM and probe.cold.warmth is Warmth.COLD
    ]
    longest = max((probe.cold.prompt_tokens for probe in pairs), default=0)
    full = [probe for probe in pairs if probe.cold.prompt_tokens >= FULL_PROBE * longest]
    if len(full) < MIN_FULL_PROBES:
        return None
    numbers = np.arange(len(full))
    cold, warm = (
        Sample(np.array([answer.ttft for answer in answers]), numbers)
        for answers in ([probe.cold for probe in full], [probe.again for probe in full])
    )
    counts = draw_counts(len(full))
    draws = cold.quantile_draws(0.5, counts) / warm.quantile_draws(0.5, counts)
    return CacheWorth(
        probes=len(full),
        prompt_tokens=float(np.median([probe.cold.prompt_tokens for probe in full])),
        cold=cold.quantile(0.5),
        warm=warm.quantile(0.5),
        gain=interval_of(cold.quantile(0.5) / warm.quantile(0.5), draws),
        prefill=prefill_of(probes),
    )


def prefill_of(probes: Sequence[Probe]) -> Slope | None:
    """Seconds that the idle fleet needs per uncached token; None where that cannot be told."""
    answers = [answer for probe in probes for answer in (probe.cold, probe.again)]
    uncached = [answer.prompt_tokens - answer.cached_tokens for answer in answers]
    slope = prefill_seconds_per_token(uncached, [answer.ttft for answer in answers])
    return slope if slope is not None and slope.interval().low > 0 else None


def requests_per_day(trial: Trial) -> float:
    """Our arm's own rate, around the clock."""
    rounds = [one for one in trial.rounds if one.arm == trial.ours]
    seconds = sum(one.duration for one in rounds)
    return sum(len(one.good) for one in rounds) / seconds * 86_400 if seconds else math.nan


def all_savings(trial: Trial, price: Price, per_day: float | None) -> list[Savings]:
    """What ours saves beside every control; nothing where the speed of the fleet could not be measured."""
    prefill = prefill_of(trial.probes)
    if prefill is None:
        return []
    results = []
    for control in trial.controls:
        pair = paired(trial, control)
        if not pair.clusters:
            continue
        counts = draw_counts(pair.clusters)
        sides = []
        for answers, clusters in ((pair.theirs, pair.clusters_of_theirs), (pair.ours, pair.clusters_of_ours)):
            computed = Sample(_computed(answers), clusters).sums(pair.clusters)
            requests = Sample(np.ones(len(answers)), clusters).sums(pair.clusters)
            sides.append((computed.sum() / requests.sum(), ratio_draws(computed, requests, counts)))
        (theirs, their_draws), (ours, our_draws) = sides
        volume = per_day or requests_per_day(trial)
        results.append(savings(control, theirs - ours, their_draws - our_draws, prefill, volume, price))
    return results


def _computed(answers: Sequence[Answer]) -> Floats:
    return np.array([answer.prompt_tokens - answer.cached_tokens for answer in answers], dtype=float)
