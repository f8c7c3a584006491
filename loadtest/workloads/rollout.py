"""A new version of an application: from one moment on everybody begins with another system prompt."""

from dataclasses import dataclass
from random import Random

from loadtest.simulator.workload import Session, Workload
from loadtest.workloads.chat import CHAT
from loadtest.workloads.dialogue import Dialogue
from loadtest.workloads.draws import BLOCK_SIZE, poisson_starts
from loadtest.workloads.text import Part, Text


@dataclass(frozen=True, slots=True)
class Rollout:
    """Open loop: chat after one long system prompt, which is replaced in the middle.

    Conversations that have begun go on with the prompt they began with.
    """

    conversations_per_second: float = 23.0
    seconds: float = 80.0
    """For as long new conversations arrive."""
    prompt_tokens: int = 1800
    """Of either system prompt."""
    dialogue: Dialogue = CHAT

    def build(self, seed: int) -> Workload:
        """Draw all conversations."""
        source = Random(seed)
        before, after = (
            Text(BLOCK_SIZE).then(Part(source.getrandbits(64), self.prompt_tokens)) for _ in range(2)
        )
        sessions = tuple(
            Session(start, tuple(self.dialogue.hold(before if 2 * start < self.seconds else after, source)))
            for start in poisson_starts(self.conversations_per_second, 0.0, self.seconds, source)
        )
        return Workload("rollout", BLOCK_SIZE, sessions)
