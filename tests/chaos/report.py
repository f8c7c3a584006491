"""What a run has found: text for people, JSON for machines."""

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import Round


@dataclass(slots=True)
class RoundReport:
    """One round: what happened, and how long until all agreed again (seconds after the last fault was
    lifted)."""

    number: int
    at: float
    """Seconds since the run began."""
    faults: list[str]
    kinds: list[str]
    converged: float | None = None
    drained: float | None = None
    settled: float | None = None
    """From when all requests had ended until mirrors equal engines and nothing was booked."""
    lag: float = 0.0
    """Longest time for which this process did not get to run in the round: a measure of the machine."""
    last_difference: str = ""
    """What differed last, before all agreed."""


@dataclass(slots=True)
class Violation:
    """Something that must not happen."""

    round: int
    what: str
    detail: str
    logs: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """Everything about one run."""

    seed: int
    converge_seconds: float
    rounds: list[RoundReport] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    restart_seconds: dict[str, list[float]] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    log_levels: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    slowest_request: float = 0.0
    seconds: float = 0.0
    directory: str = ""
    aborted: str = ""

    @property
    def passed(self) -> bool:
        """No violation, and the run came to its end."""
        return not self.violations and not self.aborted and bool(self.rounds)

    def add(self, number: int, what: str, detail: str, logs: dict[str, str] | None = None) -> None:
        """Note a violation."""
        self.violations.append(Violation(number, what, detail, logs or {}))

    def begin_round(self, plan: Round, at: float) -> RoundReport:
        """A round begins."""
        kinds = [fault.name for fault in plan.faults]
        self.rounds.append(RoundReport(plan.number, at, [str(fault) for fault in plan.faults], kinds))
        return self.rounds[-1]

    def write_json(self, path: Path) -> None:
        """Everything, for machines."""
        path.write_text(json.dumps(dataclasses.asdict(self) | {"passed": self.passed}, indent=1))

    def text(self) -> str:
        """Everything that people want to know."""
        kinds = Counter(kind for round_ in self.rounds for kind in round_.kinds)
        lines = [
            f"Chaos, seed {self.seed}: {len(self.rounds)} rounds with {kinds.total()} faults "
            f"in {self.seconds:.0f} s; logs in {self.directory}",
            "",
            "Faults:      " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
            "Requests:    " + ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items())),
            f"             the slowest took {self.slowest_request:.1f} s",
            "KV events:   " + ", ".join(f"{count} {name}" for name, count in self.events.items()),
            "Log lines:   " + (", ".join(f"{n} {level}" for level, n in self.log_levels.items()) or "none"),
            "Skipped:     " + (", ".join(f"{n} {what}" for what, n in self.skipped.items()) or "nothing"),
            "",
            "Seconds until all agreed after the last fault was lifted:  " + self._percentiles("converged"),
            "Seconds until all requests had ended:                      " + self._percentiles("drained"),
            "Seconds from then until nothing was booked, mirrors true:  " + self._percentiles("settled"),
            "Longest pause of this process in a round:                  " + self._percentiles("lag"),
        ]
        for kind, values in sorted(self.restart_seconds.items()):
            lines.append(f"Seconds to start again, {kind + ':':34} {percentiles(values)}")
        slow = [r for r in self.rounds if r.converged is None or r.converged > self.converge_seconds]
        lines += ["", f"Rounds over {self.converge_seconds:g} s: {len(slow)}"]
        lines += [_slow_line(round_) for round_ in slow]
        lines += ["", f"Violations: {len(self.violations)}"]
        lines += [line for violation in self.violations[:60] for line in _violation_lines(violation)]
        if self.aborted:
            lines += ["", f"ABORTED: {self.aborted}"]
        lines += ["", "PASSED" if self.passed else f"FAILED; repeat with --seed {self.seed}"]
        return "\n".join(lines)

    def _percentiles(self, name: str) -> str:
        values: list[Any] = [getattr(round_, name) for round_ in self.rounds]
        return percentiles([value for value in values if value is not None])


def percentiles(values: list[float]) -> str:
    """Median, 95th percentile and largest value in words."""
    if not values:
        return "none measured"
    ordered = sorted(values)
    p50, p95 = (ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.5, 0.95))
    return f"p50 {p50:.2f}, p95 {p95:.2f}, max {ordered[-1]:.2f} ({len(ordered)})"


def _slow_line(round_: RoundReport) -> str:
    took = "never" if round_.converged is None else f"{round_.converged:.2f} s"
    return (
        f"  round {round_.number} at {round_.at:.0f} s: {took} (lag {round_.lag:.2f} s) after "
        f"{'; '.join(round_.faults)}\n      last difference: {round_.last_difference}"
    )


def _violation_lines(violation: Violation) -> list[str]:
    lines = [f"  round {violation.round}: {violation.what}: {violation.detail}"]
    for name, text in violation.logs.items():
        lines += [f"      {name} | {line[:300]}" for line in text.splitlines()[-6:]]
    return lines
