"""What an experiment shows: both arms side by side, and how far their differences can be trusted.

Method: the delete-a-group jackknife (Kott, Journal of Official Statistics 17(4), 2001). A figure such as
the hit rate is a ratio R of two sums. With R(g) the same ratio without group g, its variance is estimated as
``(G - 1) / G x sum over g of (R(g) - R)^2``. The arms hold different conversations, so the variance of
their difference is the sum of both, and the 95% interval is the difference plus or minus t times its root,
with Student's t for G - 1 degrees of freedom. The groups hold whole conversations, so turns of one
conversation may depend on each other. Simulated with very unequal conversations, the intervals hold the
truth in 91% (90 conversations in the smaller arm) to 95% (1,000) of cases.
"""

import math
from typing import Any

import numpy as np

from router.steer.arm_totals import GROUPS, TTFT_BINS, ArmColumn, ArmTotals

STUDENT_T = 1.998
"""97.5% quantile for 63 degrees of freedom."""
MIN_GROUPS = 48
"""With fewer groups in use there is no interval: 90 conversations fill about 48 of 64."""

COUNTS = {
    "requests": ArmColumn.REQUESTS,
    "failures": ArmColumn.FAILURES,
    "cancelled": ArmColumn.CANCELLED,
    "prompt_tokens": ArmColumn.PROMPT_TOKENS,
    "predicted_cached_tokens": ArmColumn.PREDICTED_CACHED_TOKENS,
    "delivered_cached_tokens": ArmColumn.DELIVERED_CACHED_TOKENS,
}
PERCENTILES = (50, 95, 99)


def describe_arm(policy: str, totals: ArmTotals) -> dict[str, Any]:
    """One arm in numbers."""
    return {
        "policy": policy,
        **{name: int(totals.total(column)) for name, column in COUNTS.items()},
        "hit_rate": ratio(totals, ArmColumn.DELIVERED_CACHED_TOKENS, ArmColumn.PROMPT_TOKENS),
        "ttft_seconds": {
            "samples": int(totals.total(ArmColumn.STREAMS)),
            "mean": ratio(totals, ArmColumn.TTFT_SECONDS, ArmColumn.STREAMS),
            **{f"p{percent}": totals.ttft_percentile(percent) for percent in PERCENTILES},
            "percentile_error": TTFT_BINS.error,
        },
    }


def describe_difference(default: ArmTotals, control: ArmTotals) -> dict[str, Any]:
    """The default policy's figures less those of the control, each with its 95% interval."""
    return {
        "hit_rate": difference(default, control, ArmColumn.DELIVERED_CACHED_TOKENS, ArmColumn.PROMPT_TOKENS),
        "ttft_mean_seconds": difference(default, control, ArmColumn.TTFT_SECONDS, ArmColumn.STREAMS),
    }


def difference(
    default: ArmTotals, control: ArmTotals, numerator: ArmColumn, denominator: ArmColumn
) -> dict[str, Any] | None:
    """A ratio in the default arm less that in the control arm; None while there are too few conversations."""
    variance, values = 0.0, []
    for totals in (default, control):
        over, under = totals.sums[:, numerator], totals.sums[:, denominator]
        if np.count_nonzero(under) < MIN_GROUPS:
            return None
        value = over.sum() / under.sum()
        without = (over.sum() - over) / (under.sum() - under)
        variance += (GROUPS - 1) / GROUPS * float(((without - value) ** 2).sum())
        values.append(float(value))
    estimate, margin = values[0] - values[1], STUDENT_T * math.sqrt(variance)
    return {"estimate": estimate, "low": estimate - margin, "high": estimate + margin}


def ratio(totals: ArmTotals, numerator: ArmColumn, denominator: ArmColumn) -> float | None:
    """One sum by another; None when there is nothing yet."""
    under = totals.total(denominator)
    return totals.total(numerator) / under if under else None
