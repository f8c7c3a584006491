"""What users will say, drawn in advance; answers are the servers' own.

Everything follows from a seed, the name of a kind of users, and a conversation's number. So any conversation
can be drawn alone, in any process, and is the same in the simulator and over HTTP.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import xxhash

from loadtest.scenarios.english import Voice, english
from loadtest.scenarios.spec import Shared, Tenants, ThinkTimes, UserKind
from loadtest.workloads.draws import new_part, zipf_weights
from loadtest.workloads.text import Part, mix

SHARED_TEXTS = 4096
"""Kept as text, of openings and documents: the most recent ones."""

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class ScriptedTurn:
    """One step of a conversation."""

    think_seconds: float
    """The pause after the answer before it; 0 for the first."""
    question: Part
    answer_tokens: int
    """``max_tokens``; those of the answers to `burst` are their own."""
    burst: tuple[tuple[Part, int], ...] = ()
    """Further requests in the same moment: instructions that follow the question, and their answers' tokens.
    Their answers are not part of the history.
    """


@dataclass(frozen=True, slots=True)
class ScriptedSession:
    """One conversation, without the answers."""

    kind: str
    number: int
    """Its number among the conversations of its kind, from 0."""
    start: float
    """Seconds after the beginning, where conversations arrive at a rate."""
    pause_seconds: float
    """How long a user waits before it, where a fixed number of users hold one after the other."""
    opening: Part | None
    """The system prompt."""
    document: Part | None
    turns: tuple[ScriptedTurn, ...]
    tenant: int | None = None

    def first_messages(self) -> list[Message]:
        """What stands before the first user message."""
        return [{"role": "system", "content": shared_text(self.opening)}] if self.opening else []

    def user_message(self, turn: int) -> Message:
        """What the user says at a turn, by its number from 0."""
        question = text_of(self.turns[turn].question, "question")
        if turn == 0 and self.document:
            question = f"{shared_text(self.document)}\n\n{question}"
        return {"role": "user", "content": question}

    def requests(self, turn: int, history: list[Message]) -> list[tuple[list[Message], int]]:
        """Messages and ``max_tokens`` of all requests of a turn. The answer to the first one continues the
        conversation.

        ``history`` is all that was said before: `first_messages`, questions and answers.
        """
        scripted, asked = self.turns[turn], self.user_message(turn)
        requests = [([*history, asked], scripted.answer_tokens)]
        for instruction, tokens in scripted.burst:
            content = f"{asked['content']} {text_of(instruction)}"
            requests.append(([*history, {"role": "user", "content": content}], tokens))
        return requests


def text_of(part: Part, voice: Voice = "statement") -> str:
    """The words of a part: always the same for the same part."""
    return english(part.tokens, Random(part.identity), voice)


shared_text = lru_cache(SHARED_TEXTS)(text_of)
"""The words of a part, kept for the next conversation that needs it."""


class Screenwriter:
    """Draws the conversations of one kind of users."""

    def __init__(self, kind: str, spec: UserKind, seed: int) -> None:
        self.kind = kind
        self.spec = spec
        self._seed = mix(seed % 2**64, xxhash.xxh3_64_intdigest(kind.encode()))

    def session(self, number: int, start: float = 0.0) -> ScriptedSession:
        """One conversation. Any number from 0 on will do."""
        spec, source = self.spec, Random(mix(self._seed, number))
        tenant = _rank(spec.tenants, source) if spec.tenants else None
        opening = self._shared(spec.system_prompts, 1 + (tenant or 0), source)
        document = self._shared(spec.documents, 0, source)
        return ScriptedSession(
            kind=self.kind,
            number=number,
            start=start,
            pause_seconds=_draw_think(spec.think, source),
            opening=opening,
            document=document,
            turns=tuple(self._turns(source)),
            tenant=tenant,
        )

    def _shared(self, shared: Shared | None, collection: int, source: Random) -> Part | None:
        """One of the texts of a collection: number 0 are the documents, others a tenant's system prompts."""
        if shared is None:
            return None
        identity = mix(self._seed, collection, _rank(shared, source))
        return Part(identity, shared.tokens.lengths.draw(Random(identity)))

    def _turns(self, source: Random) -> Iterator[ScriptedTurn]:
        spec = self.spec
        burst = spec.burst
        num_further = source.randint(1, burst.most) if burst and source.random() < burst.share else 0
        for number in range(spec.turns.lengths.draw(source)):
            first = number == 0
            question = spec.first_question if first and spec.first_question else spec.question
            yield ScriptedTurn(
                think_seconds=0.0 if first else _draw_think(spec.think, source),
                question=new_part(question.lengths, source),
                answer_tokens=spec.answer.lengths.draw(source),
                burst=tuple(
                    (new_part(burst.instruction.lengths, source), spec.answer.lengths.draw(source))
                    for _ in range(num_further)
                    if burst
                ),
            )


def _rank(popular: Shared | Tenants, source: Random) -> int:
    """Which one of many, from 0: the most popular."""
    weights = _weights(popular.count, popular.exponent)
    return source.choices(range(popular.count), cum_weights=weights)[0]


_weights = lru_cache(64)(zipf_weights)


def _draw_think(think: ThinkTimes, source: Random) -> float:
    if think.mean_seconds is not None:
        return source.expovariate(1 / think.mean_seconds)
    shortest, longest = map(math.log, think.limits)
    return math.exp(source.uniform(shortest, longest))
