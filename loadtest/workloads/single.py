"""Single requests: one prefix for nearly everybody, shared documents, and nothing in common."""

from dataclasses import dataclass
from random import Random

from loadtest.simulator.workload import Session, Workload
from loadtest.workloads.dialogue import Dialogue
from loadtest.workloads.draws import BLOCK_SIZE, Lengths, new_part, poisson_starts, zipf_weights
from loadtest.workloads.text import Part, Text


@dataclass(frozen=True, slots=True)
class Rag:
    """Open loop. The document stands at the head of the first user message, after a system prompt that
    everybody shares: it is no part of the opening, and each question about it is a conversation of its own.
    """

    conversations_per_second: float = 52.0
    seconds: float = 90.0
    """How long new conversations arrive."""
    documents: int = 2000
    documents_exponent: float = 0.9
    """The exponent of the Zipf law of their popularity."""
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


@dataclass(frozen=True, slots=True)
class HotPrefix:
    """Open loop: one long system prompt with a short tail each time, too often for one replica. The others'
    prompts begin with a system prompt that nobody else has.
    """

    requests_per_second: float = 72.0
    seconds: float = 80.0
    hot_share: float = 0.95
    """Share of the requests with the hot prefix."""
    prefix_tokens: int = 3000
    """The length of the hot prefix, and of every other one."""
    tail: Lengths = Lengths(450, 0.7, 20, 2000)
    """Tokens."""
    answer: Lengths = Lengths(70, 0.5, 50, 400)
    """Tokens."""

    def build(self, seed: int) -> Workload:
        """Draw all requests."""
        source = Random(seed)
        prefix = Part(source.getrandbits(64), self.prefix_tokens)
        hot = Text(BLOCK_SIZE).then(prefix)
        dialogue = _single_request(self.tail, self.answer)
        sessions = []
        for start in poisson_starts(self.requests_per_second, 0.0, self.seconds, source):
            opening = hot
            if source.random() >= self.hot_share:
                opening = Text(BLOCK_SIZE).then(Part(source.getrandbits(64), self.prefix_tokens))
            sessions.append(Session(start, tuple(dialogue.hold(opening, source))))
        return Workload("hot-prefix", BLOCK_SIZE, tuple(sessions))


@dataclass(frozen=True, slots=True)
class NoSharing:
    """Open loop: every prompt is the first and last of its kind. No routing can find a cached block."""

    requests_per_second: float = 34.0
    seconds: float = 120.0
    prompt: Lengths = Lengths(1500, 0.6, 50, 7000)
    """Tokens."""
    answer: Lengths = Lengths(80, 0.6, 50, 400)
    """Tokens."""

    def build(self, seed: int) -> Workload:
        """Draw all requests."""
        source = Random(seed)
        dialogue = _single_request(self.prompt, self.answer)
        sessions = tuple(
            Session(start, tuple(dialogue.hold(Text(BLOCK_SIZE), source)))
            for start in poisson_starts(self.requests_per_second, 0.0, self.seconds, source)
        )
        return Workload("no-sharing", BLOCK_SIZE, sessions)


def _single_request(question: Lengths, answer: Lengths) -> Dialogue:
    return Dialogue(turns=Lengths(1, 0, 1, 1), question=question, answer=answer, think_seconds=1.0)
