"""Percentiles and slopes, as every measurement here computes them."""

import math
from collections.abc import Sequence

import numpy as np


def slope(places: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope of values over places, and its standard error. There must be three values."""
    count = len(places)
    middle, mean = sum(places) / count, sum(values) / count
    spread = sum((place - middle) ** 2 for place in places)
    rise = sum((p - middle) * (v - mean) for p, v in zip(places, values, strict=True)) / spread
    rest = sum((v - mean - rise * (p - middle)) ** 2 for p, v in zip(places, values, strict=True))
    return rise, math.sqrt(rest / (count - 2) / spread)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of the values do not exceed, by linear interpolation. There must be one."""
    return float(np.percentile(values, percent))
