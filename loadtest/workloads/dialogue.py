"""Conversations of one client with the model: each turn's prompt is all that was said, and a new question."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from loadtest.simulator.workload import Session, Turn
from loadtest.workloads.draws import Lengths, new_part
from loadtest.workloads.text import Part, Text


def ask(
    prompt: Text,
    answer: Part,
    *,
    conversation_key: int,
    opening_tokens: int,
    think_seconds: float = 0.0,
    tenant: int = 0,
    sub_agents: tuple[Session, ...] = (),
) -> tuple[Turn, Text]:
    """One request, and the text once it has been answered."""
    answered = prompt.then(answer)
    turn = Turn(
        think_seconds=think_seconds,
        prompt_tokens=prompt.tokens,
        output_tokens=answer.tokens,
        keys=answered.keys,
        conversation_key=conversation_key,
        opening_tokens=opening_tokens,
        tenant=tenant,
        sub_agents=sub_agents,
    )
    return turn, answered


@dataclass(frozen=True, slots=True)
class Dialogue:
    """How conversations go."""

    turns: Lengths
    question: Lengths
    """Tokens."""
    answer: Lengths
    """Tokens."""
    think_seconds: float
    """Mean pause before each turn but the first, exponential."""

    def hold(
        self, opening: Text, source: Random, *, attached: Part | None = None, tenant: int = 0
    ) -> Iterator[Turn]:
        """The turns of one conversation. Its first question may begin with an attached document.

        As in the router, the conversation's key stands for everything up to the first user message.
        """
        said = opening if attached is None else opening.then(attached)
        conversation_key, think_seconds = 0, 0.0
        for number in range(self.turns.draw(source)):
            prompt = said.then(new_part(self.question, source))
            if number == 0:
                conversation_key = prompt.identity
            else:
                think_seconds = source.expovariate(1 / self.think_seconds)
            turn, said = ask(
                prompt,
                new_part(self.answer, source),
                conversation_key=conversation_key,
                opening_tokens=opening.tokens,
                think_seconds=think_seconds,
                tenant=tenant,
            )
            yield turn
