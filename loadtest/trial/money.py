"""What saved tokens are worth: prompt tokens to seconds of GPUs, and to money.

All functions are pure. A token that is found in a cache saves the time in which an idle engine would have
computed it; that time is measured on the fleet itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.trial.statistics import Interval, Slope

SECONDS_PER_HOUR = 3600.0
MIN_POINTS = 6


@dataclass(frozen=True, slots=True)
class Price:
    """The user's own figures."""

    gpu_hour: float
    """In whatever currency."""
    gpus_per_replica: float = 1.0
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Savings:
    """What ours saves beside a control, at the traffic's own volume. Each with its 95% interval."""

    control: str
    requests_per_day: float
    tokens_per_request: Interval
    """Prompt tokens that ours computes less."""
    tokens_per_day: Interval
    gpu_hours_per_day: Interval
    money_per_day: Interval


def prefill_seconds_per_token(uncached_tokens: Sequence[float], seconds: Sequence[float]) -> Slope | None:
    """By how much the time to the first token grows with each uncached token, by least squares.

    Measure it on an idle fleet, else queueing counts as computing. None with fewer than six measurements, or
    if all prompts are equally long.
    """
    places, values = np.array(uncached_tokens, dtype=float), np.array(seconds, dtype=float)
    if len(places) < MIN_POINTS or np.ptp(places) == 0:
        return None
    centred = places - places.mean()
    spread = float((centred**2).sum())
    rise = float((centred * (values - values.mean())).sum()) / spread
    rest = values - values.mean() - rise * centred
    error = math.sqrt(float((rest**2).sum()) / (len(places) - 2) / spread)
    return Slope(rise, error)


def savings(
    control: str, tokens: Interval, seconds_per_token: Slope, requests_per_day: float, price: Price
) -> Savings:
    """From ``tokens`` saved per request to money; what is not known of the speed is in the intervals too."""
    hours_per_token = price.gpus_per_replica / SECONDS_PER_HOUR * requests_per_day
    hours = tokens.times(seconds_per_token.interval()).scaled(hours_per_token)
    return Savings(
        control=control,
        requests_per_day=requests_per_day,
        tokens_per_request=tokens,
        tokens_per_day=tokens.scaled(requests_per_day),
        gpu_hours_per_day=hours,
        money_per_day=hours.scaled(price.gpu_hour),
    )


def replicas_needed(replicas: int, rate: float, wanted_rate: float) -> int:
    """Replicas that serve ``wanted_rate`` as well as so many serve ``rate``, rates per second.

    Assumes that what a fleet serves grows with its size.
    """
    return max(math.ceil(replicas * wanted_rate / rate - 1e-9), 1)
