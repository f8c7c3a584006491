"""Which plots a trial's report has, and what each of them shows."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from loadtest.charts.palette import OTHERS
from loadtest.charts.panels import (
    Panel,
    Plot,
    Styles,
    as_series,
    cdf_curve,
    draw_cdf,
    draw_lines,
    draw_reference,
    make_logarithmic,
    name_ends,
    show_percent,
    ticks_at,
)
from loadtest.trial.compare import Comparison, Outcome
from loadtest.trial.drawings import draw_grouped, draw_intervals, draw_line_through
from loadtest.trial.figures import prefill_of, replica_shares
from loadtest.trial.records import Answer, Probe, Trial, Warmth
from loadtest.trial.saturation import Step
from loadtest.trial.text import milliseconds, percent

MIN_CURVE = 20
"""Requests from which on a distribution is drawn."""
MOST_REPLICAS = 16
"""With more replicas, bars cannot be read."""
WINDOWS = 15
PROBE_COLOURS = (OTHERS[0], OTHERS[2])
"""Cold and warm, each on light and on dark ground."""


def plots_of(
    trial: Trial, comparisons: Sequence[Comparison], steps: Sequence[Step], styles: Styles
) -> list[Plot]:
    """All plots for which there are measurements."""
    plots = [
        _gains(comparisons, styles),
        _distributions(trial, styles),
        _hit_rate(trial, styles),
        _probes(trial.probes),
        _replicas(trial, styles),
        _saturation(steps, styles),
    ]
    return [plot for plot in plots if plot.panels]


def _gains(comparisons: Sequence[Comparison], styles: Styles) -> Plot:
    rows = [
        (one.figure.label, one.control, one.gain)
        for one in comparisons
        if one.figure.is_ratio and one.outcome is not Outcome.TOO_FEW
    ]
    controls = list(dict.fromkeys(control for _, control, _ in rows))
    panels = []
    for control in controls:
        own = [row for row in rows if row[1] == control]
        said = "; ".join(
            f"{label} {gain.estimate:.2f}, {gain.low:.2f} to {gain.high:.2f}" for label, _, gain in own
        )
        panels.append(
            Panel(
                f"Against {control}",
                f"How many times as fast tokens and answers come as with {control}: {said}.",
                partial(draw_intervals, rows=own, styles=styles),
                needs_legend=False,
            )
        )
    return Plot(
        "gain",
        "How sure it is",
        "How many times as fast the first token comes, and the end of the answer, with 95% intervals. An "
        "interval that holds 1 shows no difference. Figures with too few samples are left out.",
        panels,
    )


def _distributions(trial: Trial, styles: Styles) -> Plot:
    panels = []
    for title, warmth in (("All requests", None), ("Warm", Warmth.WARM), ("Cold", Warmth.COLD)):
        curves = {}
        for arm in styles:
            times = [1000 * a.ttft for a in trial.answers(arm) if warmth is None or a.warmth is warmth]
            if len(times) >= MIN_CURVE and (curve := cdf_curve([np.array(times)])):
                curves[arm] = curve
        if curves:
            values = [value for line in curves.values() for value in line[0]]
            counts = ", ".join(
                f"{arm} median {np.interp(0.5, shares, times):.0f} ms"
                for arm, (times, shares) in curves.items()
            )
            limits = (min(values) / 1.1, max(values) * 1.1)
            panels.append(
                Panel(
                    title,
                    f"Cumulative distribution of the TTFT, {title.lower()}, one line per arm: {counts}.",
                    partial(draw_cdf, curves=curves, styles=styles, limits=limits),
                )
            )
    return Plot(
        "ttft",
        "Time to the first token",
        "How many requests had their first token after how long; further left is better. The vertical axis "
        "is stretched towards both ends. Warm requests found at least half of their prompt in a cache, cold "
        "ones nothing. Arms differ in how many of their requests are warm, so only the first plot compares "
        "the same requests.",
        panels,
    )


def _hit_rate(trial: Trial, styles: Styles) -> Plot:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for arm in styles:
        answers = trial.answers(arm)
        if len(answers) >= MIN_CURVE:
            series[arm] = _over_time(answers)

    def draw(axes: Axes) -> None:
        draw_lines(axes, series, styles, points=True)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("seconds after the round began")
        show_percent(axes)

    said = ", ".join(
        f"{arm} {percent(line[1][0])} first, {percent(line[1][-1])} last" for arm, line in series.items()
    )
    panel = Panel("All rounds", f"Share of prompt tokens found in caches over a round: {said}.", draw)
    return Plot(
        "hit-rate",
        "Hit rate over time",
        "Share of prompt tokens that engines found in their caches, by when in its round a request was sent, "
        "over all rounds. Each point holds equally many requests.",
        [panel] if series else [],
    )


def _over_time(answers: Sequence[Answer]) -> tuple[list[float], list[float]]:
    ordered = sorted(answers, key=lambda answer: answer.sent)
    parts = np.array_split(np.arange(len(ordered)), min(WINDOWS, len(ordered) // 5))
    times, rates = [], []
    for part in parts:
        own = [ordered[number] for number in part]
        times.append(float(np.mean([answer.sent for answer in own])))
        rates.append(sum(a.cached_tokens for a in own) / max(sum(a.prompt_tokens for a in own), 1))
    return times, rates


def _replicas(trial: Trial, styles: Styles) -> Plot:
    names = sorted({answer.replica for arm in styles for answer in trial.answers(arm)} - {""})
    shares = {arm: replica_shares(trial, arm, names) for arm in styles}
    panels = []
    if names and len(names) <= MOST_REPLICAS:
        requests = {arm: [float(one.requests) for one in own] for arm, own in shares.items()}
        computed = {arm: [float(one.computed_tokens) for one in own] for arm, own in shares.items()}
        rates = {arm: [one.hit_rate for one in own] for arm, own in shares.items()}
        panels = [
            Panel(
                "Requests",
                f"Requests each replica answered: {_extremes(requests, '{:,.0f}')}.",
                partial(draw_grouped, bars=requests, styles=styles, as_percent=False),
            ),
            Panel(
                "Prompt tokens computed",
                f"Prompt tokens each replica had to compute: {_extremes(computed, '{:,.0f}')}.",
                partial(draw_grouped, bars=computed, styles=styles, as_percent=False),
            ),
            Panel(
                "Hit rate",
                f"Hit rate of each replica: {_extremes(rates, '{:.1%}')}.",
                partial(draw_grouped, bars=rates, styles=styles, as_percent=True),
            ),
        ]
    return Plot("replicas", "Per replica", "How evenly the work lies, and what each cache gives.", panels)


def _extremes(bars: dict[str, list[float]], form: str) -> str:
    return "; ".join(
        f"{arm} {form.format(min(values))} to {form.format(max(values))}" for arm, values in bars.items()
    )


def _saturation(steps: Sequence[Step], styles: Styles) -> Plot:
    rates = sorted({step.rate for step in steps})

    def panel(title: str, value: Callable[[Step], float], finish: Callable[[Axes], None]) -> Panel:
        series = as_series((step.arm, step.rate, value(step)) for step in steps)

        def draw(axes: Axes) -> None:
            draw_lines(axes, series, styles, points=True)
            ticks_at(axes.xaxis, rates)
            axes.set_xlabel("new conversations per second")
            finish(axes)
            name_ends(axes, series, styles)

        said = "; ".join(f"{arm} {line[1][0]:.3g} to {line[1][-1]:.3g}" for arm, line in series.items())
        return Panel(
            title, f"{title} against new conversations per second: {said}.", draw, needs_legend=False
        )

    def with_goal(axes: Axes) -> None:
        draw_reference(axes, steps[0].goal * 1000, f"goal {milliseconds(steps[0].goal)}")
        make_logarithmic(axes)

    panels = []
    if len(rates) > 1:
        panels = [
            panel("TTFT p50, ms", lambda step: 1000 * step.ttft[50], make_logarithmic),
            panel("TTFT p95, ms", lambda step: 1000 * step.ttft[95], with_goal),
            panel("TTFT p99, ms", lambda step: 1000 * step.ttft[99], make_logarithmic),
            panel("Answers per second", lambda step: step.requests_per_second, lambda axes: None),
            panel(
                "Time per output token p50, ms",
                lambda step: 1000 * step.time_per_output_token,
                make_logarithmic,
            ),
            panel("Hit rate", lambda step: step.hit_rate, show_percent),
        ]
    return Plot(
        "saturation",
        "Saturation",
        "The same traffic, faster and faster. An arm whose p95 is more than four times the goal, or that "
        "fails more than 1% of its requests, is not driven further. The first third of each round, in which "
        "the fleet fills its empty caches, is left out.",
        panels,
    )


def _probes(probes: Sequence[Probe]) -> Plot:
    panels = []
    if len(probes) >= MIN_CURVE // 4:
        points = [
            (
                np.array([float(answer.prompt_tokens - answer.cached_tokens) for answer in answers]),
                np.array([1000 * answer.ttft for answer in answers]),
            )
            for answers in ([one.cold for one in probes], [one.again for one in probes])
        ]
        panels.append(
            Panel(
                "TTFT, ms",
                "TTFT over uncached tokens on the idle fleet: "
                f"cold {points[0][1].min():.0f} to {points[0][1].max():.0f} ms, "
                f"warm {points[1][1].min():.0f} to {points[1][1].max():.0f} ms.",
                partial(
                    draw_line_through,
                    cold=points[0],
                    again=points[1],
                    line=prefill_of(probes),
                    colours=(PROBE_COLOURS[0][0], PROBE_COLOURS[1][0]),
                ),
                needs_legend=False,
            )
        )
    return Plot(
        "probes",
        "Warm against cold on the idle fleet",
        "One prompt at a time, each sent twice, half of them cut. The dashed line is the time that each "
        "uncached token costs; money is computed with its slope.",
        panels,
    )
