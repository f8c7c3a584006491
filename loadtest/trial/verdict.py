"""The outcome of a trial in plain sentences. Nothing is concluded from too few samples."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.trial.compare import MIN_BEYOND, MIN_CONVERSATIONS, MIN_ROUNDS, Comparison, Outcome
from loadtest.trial.figures import CacheWorth
from loadtest.trial.records import Trial
from loadtest.trial.saturation import Sustained
from loadtest.trial.statistics import MOST_ROUNDS
from loadtest.trial.text import duration, milliseconds, percent, span, times

SUPPORTED = (Outcome.BETTER, Outcome.WORSE)


@dataclass(frozen=True, slots=True)
class Line:
    """One figure's verdict."""

    label: str
    sentence: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ControlVerdict:
    """Ours against one control."""

    control: str
    headline: str
    lines: Sequence[Line]


def judge(ours: str, comparisons: Sequence[Comparison], difference: float) -> list[ControlVerdict]:
    """One verdict per control, in their order."""
    verdicts = []
    for control in dict.fromkeys(one.control for one in comparisons):
        own = [one for one in comparisons if one.control == control]
        lines = [Line(one.figure.label, sentence(ours, one, difference), one.outcome) for one in own]
        verdicts.append(ControlVerdict(control, _headline(ours, control, own), lines))
    return verdicts


def _headline(ours: str, control: str, comparisons: Sequence[Comparison]) -> str:
    """What is shown of the median, p95, the hit rate and whole answers, in one sentence."""
    by_key = {one.figure.key: one for one in comparisons}
    if all(one.outcome is Outcome.TOO_FEW for one in comparisons):
        one = comparisons[0]
        return (
            f"No conclusion against {control}: {one.rounds} rounds with {one.conversations} conversations "
            f"are too few. At least {MIN_ROUNDS} rounds and {MIN_CONVERSATIONS} conversations are needed."
        )
    parts = []
    for key, name in (("ttft_p50", "in the median"), ("ttft_p95", "at p95")):
        one = by_key[key]
        if one.outcome in SUPPORTED:
            parts.append(f"{_faster(one)} {name}")
    text = f"Against {control}, {ours} gives the first token {' and '.join(parts)}" if parts else ""
    hits = by_key["hit_rate"]
    if hits.outcome in SUPPORTED:
        found = f"finds {percent(hits.ours)} of prompt tokens in caches instead of {percent(hits.theirs)}"
        text = f"{text}, and {found}" if text else f"Against {control}, {ours} {found}"
    answer = by_key["answer_p50"]
    if answer.outcome is Outcome.WORSE:
        slower = f"whole answers take {times(answer.gain.reciprocal().estimate)} times as long in the median"
        text = f"{text}, but {slower}" if text else f"Against {control}, with {ours} {slower}"
    elif answer.outcome is Outcome.BETTER and text:
        text += f"; whole answers are complete {_faster(answer)} in the median"
    if not text:
        return f"Between {ours} and {control} no difference is shown in TTFT, hit rate or whole answers."
    return f"{text}."


def _faster(one: Comparison) -> str:
    if one.outcome is Outcome.BETTER:
        return f"{times(one.gain.estimate)} times as fast"
    return f"{times(one.gain.reciprocal().estimate)} times as slowly"


def sentence(ours: str, one: Comparison, difference: float) -> str:
    """One figure of both arms, what may be concluded, and what it would take."""
    seen = f"{ours} {_value(one, one.ours)}, {one.control} {_value(one, one.theirs)}"
    if one.outcome is Outcome.TOO_FEW:
        return f"{seen}: not enough to conclude. {_wanted(one)}"
    interval = f"95% interval {_interval(one)}"
    if one.outcome is Outcome.UNDECIDED:
        return f"{seen}: no difference is shown ({interval}).{_resolution(one, difference)}"
    return f"{seen}: {_gain(one)} ({interval})."


def _value(one: Comparison, value: float) -> str:
    return milliseconds(value) if one.figure.is_ratio else percent(value)


def _gain(one: Comparison) -> str:
    if not one.figure.is_ratio:
        points = 100 * abs(one.gain.estimate)
        return f"{points:.1f} points {'more' if one.gain.estimate > 0 else 'less'}"
    return _faster(one)


def _interval(one: Comparison) -> str:
    """The interval of the gain; where ours is worse, of the loss."""
    is_loss = one.outcome is Outcome.WORSE
    if not one.figure.is_ratio:
        return f"{span(one.gain.scaled(-100 if is_loss else 100))} points"
    return span(one.gain.reciprocal() if is_loss else one.gain)


def _wanted(one: Comparison) -> str:
    """What is missing: rounds, conversations, requests beyond a percentile."""
    wants = []
    if one.rounds < MIN_ROUNDS:
        wants.append(f"At least {MIN_ROUNDS} rounds of each arm are needed; here were {one.rounds}.")
    if one.conversations < MIN_CONVERSATIONS:
        wants.append(f"At least {MIN_CONVERSATIONS} conversations are needed; here were {one.conversations}.")
    if one.figure.share:
        beyond = MIN_BEYOND / (1 - one.figure.share)
        wants.append(
            f"This percentile needs {beyond:,.0f} requests, and {beyond / MIN_BEYOND:,.0f} in each round."
        )
    return " ".join(wants)


def _resolution(one: Comparison, difference: float) -> str:
    """How many rounds the difference that is looked for needs, where these were too few."""
    if one.needed is not None and one.needed <= one.rounds:
        return ""
    wanted = percent(difference) if one.figure.is_ratio else f"{100 * difference:g} points"
    rounds = f"{one.needed} rounds" if one.needed else f"more than {MOST_ROUNDS:,} rounds"
    return (
        f" To find {wanted} nearly always, {rounds} of each arm are needed (--rounds); "
        f"here were {one.rounds}."
    )


def rounds_sentence(trial: Trial, needed: int) -> str:
    """How many rounds the wanted difference needs, and how long those take that are missing."""
    played = len(trial.rounds) // len(trial.arms)
    seconds = sum(one.duration for one in trial.rounds) / played * (needed - played)
    return (
        f"To find a difference of {percent(trial.difference)} in TTFT p50, {needed} rounds of each arm are "
        f"needed: {needed - played} more, in about {duration(seconds)}."
    )


def worth_sentence(worth: CacheWorth) -> str:
    """What a cache is worth on this fleet when nothing queues."""
    text = (
        f"On the idle fleet a prompt of {worth.prompt_tokens:,.0f} tokens has its first token after "
        f"{milliseconds(worth.cold)} cold and {milliseconds(worth.warm)} warm: "
        f"{times(worth.gain.estimate)} times as fast (95% interval {span(worth.gain)}; "
        f"{worth.probes} prompts, each twice)."
    )
    if worth.prefill is not None:
        rate = worth.prefill.interval()
        text += f" Each uncached token costs {1000 * rate.estimate:.3g} ms ({span(rate.scaled(1000))})."
    return text


def sustained_sentence(ours: str, goal: float, all_sustained: Sequence[Sustained]) -> str:
    """What every arm serves within the goal, in conversations per second."""
    parts = []
    for one in sorted(all_sustained, key=lambda one: one.arm != ours):
        at_least = "at least " if one.at_least else ""
        parts.append(f"{one.arm} {at_least}{one.rate:.3g}" if one.rate else f"{one.arm} none of these rates")
    return (
        f"New conversations per second that the fleet serves with p95 of the TTFT within "
        f"{milliseconds(goal)}: {', '.join(parts)}."
    )
