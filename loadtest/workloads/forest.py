"""Forests of documents: prompts that share texts up to any depth, and nothing that is common to all of them.

A document parts into sections, these into further ones, and so on. A prompt takes a path from a document to
some depth and asks a question after it. Which documents are wanted follows a Zipf law; with drift the newest
one is the most popular, and each becomes less popular as newer ones come.
"""

from dataclasses import dataclass, field
from random import Random

from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.workloads.dialogue import ask
from loadtest.workloads.draws import BLOCK_SIZE, Lengths, new_part, poisson_starts, zipf_weights
from loadtest.workloads.text import Part, Text, mix


@dataclass(frozen=True, slots=True)
class Forest:
    """Open loop: single requests, each of which is a conversation of its own."""

    requests_per_second: float = 48.0
    seconds: float = 80.0
    """How long requests arrive."""
    roots: Lengths | None = None
    """Tokens of what stands before documents; None: nothing does."""
    num_roots: int = 1
    """How many such texts there are, all equally often; each has documents of its own."""
    documents: int = 80
    documents_exponent: float = 1.0
    """The exponent of the Zipf law of their popularity."""
    depth: int = 6
    """The most sections that follow each other, with the document's own beginning."""
    width: int = 4
    """Into how many each section parts."""
    width_exponent: float = 1.0
    """The exponent of the Zipf law of their popularity."""
    deeper: float = 0.8
    """Chance that a prompt goes on with another section."""
    section: Lengths = Lengths(450, 0.6, 60, 2000)
    """Tokens."""
    question: Lengths = Lengths(100, 0.8, 5, 600)
    """Tokens."""
    answer: Lengths = Lengths(30, 0.8, 1, 200)
    """Tokens."""
    drift_seconds: float = 0.2
    """How often a new document comes, which is the most popular one from then on; 0: never."""
    declared: bool = False
    """Whether routers are told that roots and documents are openings, as system prompts are."""

    def build(self, seed: int) -> Workload:
        """Draw all requests."""
        source = Random(seed)
        grower = _Grower(self, source.getrandbits(64))
        roots = [Text(BLOCK_SIZE)]
        if self.roots is not None:
            roots = [roots[0].then(new_part(self.roots, source)) for _ in range(self.num_roots)]
        documents = zipf_weights(self.documents, self.documents_exponent)
        branches = zipf_weights(self.width, self.width_exponent)
        sessions = []
        for start in poisson_starts(self.requests_per_second, 0.0, self.seconds, source):
            newest = int(start / self.drift_seconds) if self.drift_seconds else 0
            rank = source.choices(range(self.documents), cum_weights=documents)[0]
            path = [newest - rank]
            while len(path) < self.depth and source.random() < self.deeper:
                path.append(source.choices(range(self.width), cum_weights=branches)[0])
            text = grower.text(source.choice(roots), tuple(path))
            sessions.append(Session(start, (self._question(text, source),)))
        return Workload("forest", BLOCK_SIZE, tuple(sessions))

    def _question(self, text: Text, source: Random) -> Turn:
        prompt = text.then(new_part(self.question, source))
        turn, _ = ask(
            prompt,
            new_part(self.answer, source),
            conversation_key=prompt.identity,
            opening_tokens=text.tokens if self.declared else 0,
        )
        return turn


@dataclass(slots=True)
class _Grower:
    """Grows documents where they are asked for: the same path is always the same text."""

    forest: Forest
    seed: int
    _grown: dict[tuple[int, tuple[int, ...]], Text] = field(default_factory=dict)

    def text(self, root: Text, path: tuple[int, ...]) -> Text:
        """A root, and the sections on the path after it."""
        if not path:
            return root
        place = root.identity, path
        if place not in self._grown:
            before = self.text(root, path[:-1])
            identity = mix(self.seed, before.identity, path[-1] % 2**64)
            part = Part(identity, self.forest.section.draw(Random(identity)))
            self._grown[place] = before.then(part)
        return self._grown[place]
