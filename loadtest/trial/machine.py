"""What the machine of the load generator had to do beside a round, and which rounds were disturbed."""

from collections.abc import Sequence
from statistics import median

import psutil

from loadtest.trial.records import Round
from loadtest.trial.text import milliseconds, percent

LATE_SECONDS = 0.025
"""The generator's lag at p99 from which on a round is disturbed."""
MORE_LOAD = 0.2
"""So much more of the machine taken by others than in the round in the middle."""


class OtherWork:
    """CPU time that processes of others use, from now on."""

    def __init__(self) -> None:
        self._total, self._others = _clocks()

    def share(self) -> float:
        """Their share of the machine's CPUs since the beginning."""
        total, others = _clocks()
        passed = total - self._total
        return min(max((others - self._others) / passed, 0.0), 1.0) if passed > 0 else 0.0


def _clocks() -> tuple[float, float]:
    """Seconds so far, over all CPUs: of all time, and of work that neither we do nor our children."""
    times = psutil.cpu_times()
    total = sum(times[:8])  # guest time is part of user time
    idle = times.idle + getattr(times, "iowait", 0.0)
    own = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        own += used.user + used.system
    return total, total - idle - own


def disturbances(rounds: Sequence[Round]) -> list[str]:
    """What disturbed each round; empty where nothing did.

    Load is compared with the other rounds': what is always there, such as engines that others started here,
    meets all arms alike.
    """
    usual = median([one.others for one in rounds]) if rounds else 0.0
    found = []
    for one in rounds:
        reasons = []
        if one.lag.p99 > LATE_SECONDS:
            reasons.append(f"the generator ran {milliseconds(one.lag.p99)} late at p99")
        if one.others > usual + MORE_LOAD:
            reasons.append(
                f"others took {percent(one.others)} of the machine, {percent(usual)} in the median"
            )
        found.append("; ".join(reasons))
    return found
