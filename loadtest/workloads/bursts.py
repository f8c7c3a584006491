"""Quiet periods, and bursts at many times the mean rate."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from loadtest.simulator.workload import Session, Workload
from loadtest.workloads.chat import Applications
from loadtest.workloads.dialogue import Dialogue
from loadtest.workloads.draws import BLOCK_SIZE, Lengths, poisson_starts


@dataclass(frozen=True, slots=True)
class Bursts:
    """Open loop: short conversations with moderately shared prompts, switched between two rates.

    Each period is between 0.8 and 1.2 times as long as the mean.
    """

    conversations_per_second: float = 37.0
    """Mean over quiet periods and bursts."""
    burst_factor: float = 5.0
    """Rate in a burst over the mean rate."""
    burst_seconds: float = 2.0
    """Mean length of a burst."""
    quiet_seconds: float = 15.0
    """Mean length of a quiet period."""
    seconds: float = 100.0
    """For as long new conversations arrive."""
    applications: Applications = Applications(count=30, exponent=0.8, prompt=Lengths(700, 0.5, 150, 2000))
    dialogue: Dialogue = Dialogue(
        turns=Lengths(1.5, 0.5, 1, 3),
        question=Lengths(600, 0.8, 10, 3000),
        answer=Lengths(75, 0.6, 50, 400),
        think_seconds=4.0,
    )

    def build(self, seed: int) -> Workload:
        """Draw all conversations."""
        source = Random(seed)
        prompts = self.applications.draw_prompts(source)
        sessions = tuple(
            Session(start, tuple(self.dialogue.hold(self.applications.pick(prompts, source), source)))
            for start in self._starts(source)
        )
        return Workload("bursts", BLOCK_SIZE, sessions)

    def _starts(self, source: Random) -> Iterator[float]:
        """Arrivals, beginning with a quiet period."""
        burst_share = self.burst_seconds / (self.burst_seconds + self.quiet_seconds)
        burst_rate = self.conversations_per_second * self.burst_factor
        quiet_rate = (self.conversations_per_second - burst_rate * burst_share) / (1 - burst_share)
        begin, quiet = 0.0, True
        while begin < self.seconds:
            length = source.uniform(0.8, 1.2) * (self.quiet_seconds if quiet else self.burst_seconds)
            end = min(begin + length, self.seconds)
            yield from poisson_starts(quiet_rate if quiet else burst_rate, begin, end, source)
            begin, quiet = end, not quiet
