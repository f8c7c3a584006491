"""How the measurements are shown: a line each, and whether it holds."""

import sys
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Table:
    """What one run has measured."""

    title: str
    slack: float = 1.0
    """By how much more times may be than they should: tests run on machines that do other things."""
    failures: int = 0
    lines: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Something to know, without a goal."""
        self.lines.append(f"       {text}")

    def row(self, measure: str, value: float, goal: float, unit: str = "", at_least: bool = False) -> None:
        """A figure and its goal."""
        allowed = goal * self.slack if unit in ("ms", "s") else goal
        holds = value >= goal if at_least else value <= allowed
        self.failures += not holds
        sign = ">=" if at_least else "<="
        self.lines.append(
            f"{'ok   ' if holds else 'WRONG'}  {measure}: {value:.4g} {unit} (goal {sign} {goal:g} {unit})"
        )

    def __str__(self) -> str:
        return "\n".join([self.title, *self.lines])


def progress(text: str) -> None:
    """Say what was measured just now, to whoever waits for the table."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
