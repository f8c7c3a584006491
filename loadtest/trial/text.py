"""Numbers as people read them."""

import math

from loadtest.trial.statistics import Interval

NOTHING = "\u2013"
"""What stands where there is no figure."""


def milliseconds(seconds: float) -> str:
    """A time with three digits: ``38.2 ms``, ``1,240 ms``, ``12.4 s``."""
    if math.isnan(seconds):
        return NOTHING
    if seconds >= 10:
        return f"{seconds:.1f}\u00a0s"
    return f"{digits(1000 * seconds)}\u00a0ms"


def duration(seconds: float) -> str:
    """How long something will take, roughly."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def percent(share: float) -> str:
    """A share of one as percent."""
    return NOTHING if math.isnan(share) else f"{100 * share:.1f}%"


def times(factor: float) -> str:
    """A factor: how many times."""
    return f"{factor:.2f}" if factor < 10 else f"{factor:.1f}"


def digits(value: float) -> str:
    """Three digits or all before the point, with thousands set apart; millions as such."""
    if math.isnan(value):
        return NOTHING
    size = abs(value)
    if size >= 999_500:
        return f"{digits(value / 1e6)}\u00a0million"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def span(interval: Interval) -> str:
    """An interval, from where to where."""
    return f"{digits(interval.low)} to {digits(interval.high)}"
