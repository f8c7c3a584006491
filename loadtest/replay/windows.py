"""A run cut into windows of time: how it behaves while the fleet changes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.simulator.results import Run

WIDTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
MOST_WINDOWS = 80
FEWEST_REQUESTS = 5
"""A window with fewer requests has no figures."""


@dataclass(frozen=True, slots=True)
class WindowedSeries:
    """One policy over time, the median over seeds. Not a number where a window has no figure."""

    policy: str
    times: NDArray[np.float64]
    """Middle of each window, in virtual seconds."""
    ttft_p99_ms: NDArray[np.float64]
    hit_rate: NDArray[np.float64]


def window_width(runs: Sequence[Run]) -> float:
    """Seconds: the shortest that gives no more than 80 windows."""
    longest = max((run.seconds for run in runs), default=0.0)
    return next((width for width in WIDTHS if longest / width <= MOST_WINDOWS), WIDTHS[-1])


def windowed(runs: Sequence[Run]) -> list[WindowedSeries]:
    """One series per policy. A request counts in the window in which it arrived."""
    width = window_width(runs)
    count = max((int(answer.arrival // width) + 1 for run in runs for answer in run.answers), default=0)
    times = (np.arange(count, dtype=np.float64) + 0.5) * width
    series = []
    for policy in dict.fromkeys(run.policy for run in runs):
        figures = [_figures(run, width, count) for run in runs if run.policy == policy]
        # A figure must exist with every seed: a plain median keeps a gap a gap.
        p99, hit_rate = np.median(figures, axis=0)
        series.append(WindowedSeries(policy, times, p99, hit_rate))
    return series


def _figures(run: Run, width: float, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """p99 of the TTFT in milliseconds, and hit rate, in each window."""
    window = np.array([int(answer.arrival // width) for answer in run.answers], dtype=np.int64)
    ttft = np.array([answer.first_token - answer.arrival for answer in run.answers])
    prompt = np.array([answer.prompt_tokens for answer in run.answers])
    hit = np.array([answer.hit_tokens for answer in run.answers])
    p99, hit_rate = np.full(count, np.nan), np.full(count, np.nan)
    for place in range(count):
        inside = window == place
        if np.count_nonzero(inside) < FEWEST_REQUESTS:
            continue
        answered = ttft[inside & np.isfinite(ttft)]
        if answered.size:
            p99[place] = np.percentile(answered, 99) * 1000
        if prompt[inside].sum():
            hit_rate[place] = hit[inside].sum() / prompt[inside].sum()
    return p99, hit_rate
