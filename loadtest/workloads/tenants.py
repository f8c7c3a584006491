"""Tenants of very different size: a few make most of the traffic, and many are tiny."""

from dataclasses import dataclass
from random import Random

from loadtest.simulator.workload import Session, Workload
from loadtest.workloads.dialogue import Dialogue
from loadtest.workloads.draws import BLOCK_SIZE, Lengths, new_part, poisson_starts, zipf_weights
from loadtest.workloads.text import Text


@dataclass(frozen=True, slots=True)
class Tenants:
    """Open loop: each tenant has its own system prompt; tenant 0 is the biggest."""

    conversations_per_second: float = 29.0
    seconds: float = 90.0
    """For as long new conversations arrive."""
    tenants: int = 200
    tenants_exponent: float = 1.2
    """Of the Zipf law of their traffic."""
    system_prompt: Lengths = Lengths(900, 0.7, 150, 4000)
    """Tokens."""
    dialogue: Dialogue = Dialogue(
        turns=Lengths(2, 0.6, 1, 6),
        question=Lengths(350, 0.9, 10, 3000),
        answer=Lengths(75, 0.6, 50, 400),
        think_seconds=8.0,
    )

    def build(self, seed: int) -> Workload:
        """Draw all conversations."""
        source = Random(seed)
        openings = [Text(BLOCK_SIZE).then(new_part(self.system_prompt, source)) for _ in range(self.tenants)]
        weights = zipf_weights(self.tenants, self.tenants_exponent)
        sessions = []
        for start in poisson_starts(self.conversations_per_second, 0.0, self.seconds, source):
            tenant = source.choices(range(self.tenants), cum_weights=weights)[0]
            sessions.append(
                Session(start, tuple(self.dialogue.hold(openings[tenant], source, tenant=tenant)))
            )
        return Workload("tenants", BLOCK_SIZE, tuple(sessions))
