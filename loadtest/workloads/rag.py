"""Questions about documents that many users share, some documents far more often than others."""

from dataclasses import dataclass
from random import Random

from loadtest.simulator.workload import Session, Workload
from loadtest.workloads.dialogue import Dialogue
from loadtest.workloads.draws import BLOCK_SIZE, Lengths, new_part, poisson_starts, zipf_weights
from loadtest.workloads.text import Text


@dataclass(frozen=True, slots=True)
class Rag:
    """Open loop. The document stands at the head of the first user message, after a system prompt that
    everybody shares: it is no part of the opening, and each question about it is a conversation of its own.
    """

    conversations_per_second: float = 52.0
    seconds: float = 90.0
    """For as long new conversations arrive."""
    documents: int = 2000
    documents_exponent: float = 0.9
    """Of the Zipf law of their popularity."""
    document: Lengths = Lengths(1800, 0.5, 1000, 4000)
    """Tokens."""
    system_prompt: Lengths = Lengths(250, 0.2, 150, 400)
    """Tokens."""
    dialogue: Dialogue = Dialogue(
        turns=Lengths(1.2, 0.4, 1, 2),
        question=Lengths(40, 0.5, 10, 200),
        answer=Lengths(70, 0.5, 50, 400),
        think_seconds=8.0,
    )

    def build(self, seed: int) -> Workload:
        """Draw all questions."""
        source = Random(seed)
        opening = Text(BLOCK_SIZE).then(new_part(self.system_prompt, source))
        documents = [new_part(self.document, source) for _ in range(self.documents)]
        weights = zipf_weights(self.documents, self.documents_exponent)
        sessions = []
        for start in poisson_starts(self.conversations_per_second, 0.0, self.seconds, source):
            document = source.choices(documents, cum_weights=weights)[0]
            sessions.append(Session(start, tuple(self.dialogue.hold(opening, source, attached=document))))
        return Workload("rag", BLOCK_SIZE, tuple(sessions))
