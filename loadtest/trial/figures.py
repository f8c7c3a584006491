"""A trial in figures: each arm, all its requests and by how warm they were; and what a cache is worth."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from loadtest.trial.compare import paired
from loadtest.trial.money import Price, Savings, prefill_seconds_per_token, savings
from loadtest.trial.records import Answer, Probe, Trial, Warmth
from loadtest.trial.statistics import Interval, Slope, interval_over

PERCENTILES = (50, 95, 99)
FULL_PROBE = 0.9
"""Share of the longest prompt from which on a probe is compared with its repetition."""
MIN_FULL_PROBES = 8


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """Some requests of one arm. Seconds; NaN where there is nothing to tell."""

    arm: str
    group: str
    """Which of its requests."""
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


ALL = "All requests"


def all_figures(trial: Trial) -> list[ArmFigures]:
    """Each arm's requests: all, those of cold starts and those after, and by how warm they were."""
    groups: dict[str, Callable[[str], list[Answer]]] = {
        ALL: trial.answers,
        "Cold start: the first third of each round": partial(trial.answers, started=False),
        "After the cold start": partial(trial.answers, started=True),
        "Warm requests": lambda arm: [a for a in trial.answers(arm) if a.warmth is Warmth.WARM],
        "Cold requests": lambda arm: [a for a in trial.answers(arm) if a.warmth is Warmth.COLD],
    }
    every = [figures_of(trial, arm, name, of(arm)) for name, of in groups.items() for arm in trial.arms]
    return [one for one in every if one.requests or one.group == ALL]


def figures_of(trial: Trial, arm: str, group: str, chosen: Sequence[Answer]) -> ArmFigures:
    """Some of one arm's requests."""
    everything = trial.answers(arm)
    ttfts = [answer.ttft for answer in chosen] or [math.nan]
    paces = [pace for answer in chosen if (pace := answer.time_per_output_token) is not None]
    prompts = sum(answer.prompt_tokens for answer in chosen)
    sent = sum(len(one.answers) for one in trial.rounds if one.arm == arm)
    return ArmFigures(
        arm=arm,
        group=group,
        requests=len(chosen),
        share=len(chosen) / max(len(everything), 1),
        failures=sent - len(everything) if group == ALL else 0,
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
    cold, warm = (
        np.array([answer.ttft for answer in answers])
        for answers in ([probe.cold for probe in full], [probe.again for probe in full])
    )
    return CacheWorth(
        probes=len(full),
        prompt_tokens=float(np.median([probe.cold.prompt_tokens for probe in full])),
        cold=float(np.median(cold)),
        warm=float(np.median(warm)),
        gain=interval_over(np.log(cold / warm)).exponential(),
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
        tokens = interval_over(-paired(trial, control).differences(_computed))
        if not math.isnan(tokens.low):
            results.append(savings(control, tokens, prefill, per_day or requests_per_day(trial), price))
    return results


def _computed(answers: Sequence[Answer]) -> float:
    """Prompt tokens per request that were in no cache."""
    return sum(answer.prompt_tokens - answer.cached_tokens for answer in answers) / len(answers)
