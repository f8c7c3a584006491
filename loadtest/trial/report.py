"""Writes the report of a trial: one HTML page that needs nothing else, and all figures as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.charts.page import plain, render_page
from loadtest.charts.palette import css_variables, series_styles
from loadtest.trial.compare import MIN_CONVERSATIONS, MIN_ROUNDS, Comparison, compare_all, rounds_for
from loadtest.trial.figures import ArmFigures, CacheWorth, all_figures, all_savings, cache_worth, prefill_of
from loadtest.trial.machine import disturbances
from loadtest.trial.money import Price, Savings, replicas_needed
from loadtest.trial.plots import PROBE_COLOURS, plots_of
from loadtest.trial.records import Trial
from loadtest.trial.saturation import Step, Sustained, step_of, sustained
from loadtest.trial.text import digits, milliseconds, percent, span
from loadtest.trial.verdict import ControlVerdict, judge, rounds_sentence, sustained_sentence, worth_sentence

JSON_DIGITS = 6
"""Digits of the figures in JSON: nobody needs more."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that follows from what was measured."""

    comparisons: Sequence[Comparison]
    verdicts: Sequence[ControlVerdict]
    figures: Sequence[ArmFigures]
    worth: CacheWorth | None
    steps: Sequence[Step]
    sustained: Sequence[Sustained]
    savings: Sequence[Savings]
    price: Price
    rate: float
    """Usual conversations per second."""
    sentences: Sequence[str]
    warnings: Sequence[str]


def find(
    trial: Trial, price: Price, rate: float, goal: float, per_day: float | None, replicas: int
) -> Findings:
    """Analyse a trial. ``replicas``: of the fleet, 0 where that is not known."""
    comparisons = compare_all(trial)
    steps = [step_of(one, goal) for one in trial.sweep]
    served = [sustained(steps, arm) for arm in trial.arms] if steps else []
    worth = cache_worth(trial.probes)
    sentences = [worth_sentence(worth)] if worth else []
    needed = rounds_for(comparisons)
    if needed is not None and needed > len(trial.rounds) // len(trial.arms):
        sentences.append(f"{rounds_sentence(trial, needed)} --max-rounds plays them.")
    if served:
        sentences.append(sustained_sentence(trial.ours, goal, served))
        sentences += _replicas_sentences(served, replicas)
    return Findings(
        comparisons=comparisons,
        verdicts=judge(trial.ours, comparisons, trial.difference),
        figures=all_figures(trial) if trial.rounds else [],
        worth=worth,
        steps=steps,
        sustained=served,
        savings=all_savings(trial, price, per_day),
        price=price,
        rate=rate,
        sentences=sentences,
        warnings=list(_warnings(trial)),
    )


def _replicas_sentences(served: Sequence[Sustained], replicas: int) -> list[str]:
    *controls, ours = served
    needed = [
        f"{replicas_needed(replicas, control.rate, ours.rate)} with {control.arm}"
        for control in controls
        if replicas and control.rate and not control.at_least and ours.rate > control.rate
    ]
    if not needed:
        return []
    at_least = "at least " if ours.at_least else ""
    return [
        f"Replicas needed for what {replicas} serve with {ours.arm}: {at_least}{', '.join(needed)}. This "
        "takes it that what a fleet serves grows with its size, and has no interval: there is one round at "
        "each rate."
    ]


def _warnings(trial: Trial) -> list[str]:
    """What disturbs the measurement."""
    warnings = []
    rounds = [*trial.rounds, *trial.sweep]
    failed = {arm: sum(len(r.answers) - len(r.good) for r in rounds if r.arm == arm) for arm in trial.arms}
    for arm, count in failed.items():
        if count:
            first = next(a.error for r in rounds if r.arm == arm for a in r.answers if a.error)
            many = "request" if count == 1 else "requests"
            warnings.append(f"{count:,} {many} of {arm} failed, the first with: {first}")
    disturbed = [(one, why) for one, why in zip(trial.rounds, disturbances(trial.rounds), strict=True) if why]
    if disturbed:
        by_arm = [f"{sum(one.arm == arm for one, _ in disturbed)} of {arm}" for arm in trial.arms]
        warnings.append(
            f"{len(disturbed)} of {len(trial.rounds)} rounds were disturbed ({', '.join(by_arm)}), the first "
            f"when {disturbed[0][1]}. They count, and widen the intervals: a quiet machine needs fewer."
        )
    answers = [answer for one in trial.rounds for answer in one.good]
    if answers and not any(answer.cached_tokens for answer in answers):
        warnings.append(
            "No server reports cached tokens: nothing can be said of hit rates, warmth and money."
        )
    elif answers and prefill_of(trial.probes) is None:
        warnings.append("Nothing is said of money: what an uncached token costs was not measured (--probes).")
    return warnings


def write_report(trial: Trial, findings: Findings, directory: Path) -> Path:
    """Write `report.html` and `results.json`. Returns the path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = plain(as_json(trial, findings), JSON_DIGITS)
    (directory / "results.json").write_text(json.dumps(figures, indent=1) + "\n")
    styles = series_styles(list(trial.arms), trial.ours)
    variables = css_variables(styles) | {"cold": PROBE_COLOURS[0], "warm": PROBE_COLOURS[1]}
    page = render_page(
        "loadtest.trial",
        "trial.html.j2",
        variables,
        styles,
        plots_of(trial, findings.comparisons, findings.steps, styles),
        {"ms": milliseconds, "percent": percent, "span": span, "digits": digits},
        trial=trial,
        findings=findings,
        groups=_by_group(findings.figures),
        least=MIN_CONVERSATIONS,
        least_rounds=MIN_ROUNDS,
        disturbed=disturbances(trial.rounds),
    )
    path = directory / "report.html"
    path.write_text(page)
    return path


def _by_group(figures: Sequence[ArmFigures]) -> dict[str, list[ArmFigures]]:
    groups: dict[str, list[ArmFigures]] = {}
    for one in figures:
        groups.setdefault(one.group, []).append(one)
    return groups


def as_json(trial: Trial, findings: Findings) -> dict[str, Any]:
    """All figures of the report; times in seconds."""
    return {
        "title": trial.title,
        "command": trial.command,
        "facts": dict(trial.facts),
        "arms": list(trial.arms),
        "verdicts": [asdict(verdict) for verdict in findings.verdicts],
        "comparisons": [asdict(one) for one in findings.comparisons],
        "figures": [asdict(one) for one in findings.figures],
        "idle_fleet": asdict(findings.worth) if findings.worth else None,
        "sweep": [asdict(step) for step in findings.steps],
        "sustained": [asdict(one) for one in findings.sustained],
        "price": asdict(findings.price),
        "savings": [asdict(one) for one in findings.savings],
        "conversations_per_second": findings.rate,
        "warnings": list(findings.warnings),
        "rounds": [
            {
                "arm": one.arm,
                "number": one.number,
                "rate": one.rate,
                "seconds": one.seconds,
                "duration": one.duration,
                "requests": len(one.answers),
                "failed": len(one.answers) - len(one.good),
                "cut_off": one.cut_off,
                "generator_lag": asdict(one.lag),
                "machine_used_by_others": one.others,
                "disturbed_by": why,
            }
            for part in (trial.rounds, trial.sweep)
            for one, why in zip(part, disturbances(part), strict=True)
        ],
    }
