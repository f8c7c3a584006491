"""Agents: long tool prompts that many tasks share, and one request soon after the other.

A task begins with the tool prompt of its kind. Its history grows by the output of tools, milliseconds to a
second after each answer. Some tasks try several ways at once: lanes that start together, of which each asks
about the common history with an instruction of its own; the history goes on with the first lane's answers.
Lanes run in step by their pauses only: one that is ahead may name an answer that does not exist yet, and
then finds nothing there to share.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.workloads.dialogue import ask
from loadtest.workloads.draws import BLOCK_SIZE, Lengths, new_part, poisson_starts, zipf_weights
from loadtest.workloads.text import Text


@dataclass(frozen=True, slots=True)
class Agents:
    """Open loop: tasks arrive whatever the fleet does; each lane of a task is a session."""

    tasks_per_second: float = 19.0
    seconds: float = 60.0
    """How long new tasks arrive."""
    kinds: int = 5
    kinds_exponent: float = 0.8
    """The exponent of the Zipf law of their popularity."""
    tools: Lengths = Lengths(3300, 0.3, 2500, 6000)
    """Tokens of a kind's system prompt and tools."""
    task: Lengths = Lengths(700, 0.8, 20, 3000)
    """Tokens of the first user message."""
    steps: Lengths = Lengths(3.5, 0.4, 2, 8)
    """Requests of each lane."""
    answer: Lengths = Lengths(50, 0.6, 20, 400)
    """Tokens of an answer, mostly a tool call."""
    tool_output: Lengths = Lengths(400, 0.8, 20, 2000)
    """Tokens that each step adds."""
    pause_seconds: tuple[float, float] = (0.005, 1.0)
    """How long tools take: shortest and longest, uniform in the logarithm."""
    parallel_share: float = 0.25
    """Share of the tasks with more than one lane."""
    most_lanes: int = 4
    """The most lanes of such a task, at least 2."""
    instruction: Lengths = Lengths(150, 0.5, 20, 600)
    """Tokens at the end of every prompt of the lanes after the first."""

    def build(self, seed: int) -> Workload:
        """Draw all tasks."""
        source = Random(seed)
        tools = [Text(BLOCK_SIZE).then(new_part(self.tools, source)) for _ in range(self.kinds)]
        weights = zipf_weights(self.kinds, self.kinds_exponent)
        sessions = tuple(
            Session(start, lane)
            for start in poisson_starts(self.tasks_per_second, 0.0, self.seconds, source)
            for lane in self._lanes(source.choices(tools, cum_weights=weights)[0], source)
        )
        return Workload("agents", BLOCK_SIZE, sessions)

    def _lanes(self, opening: Text, source: Random) -> list[tuple[Turn, ...]]:
        """The turns of each lane of one task."""
        parallel = source.random() < self.parallel_share
        num_lanes = source.randint(2, self.most_lanes) if parallel else 1
        steps = [list(step) for step in self._steps(opening, num_lanes, source)]
        return list(zip(*steps, strict=True))

    def _steps(self, opening: Text, num_lanes: int, source: Random) -> Iterator[list[Turn]]:
        """The requests of all lanes, step by step."""
        history = opening.then(new_part(self.task, source))
        conversation_key = history.identity
        shortest, longest = map(math.log, self.pause_seconds)
        for step in range(self.steps.draw(source)):
            if step:
                history = history.then(new_part(self.tool_output, source))
            prompts = [history] + [
                history.then(new_part(self.instruction, source)) for _ in range(1, num_lanes)
            ]
            think_seconds = math.exp(source.uniform(shortest, longest)) if step else 0.0
            asked = [
                ask(
                    prompt,
                    new_part(self.answer, source),
                    conversation_key=conversation_key,
                    opening_tokens=opening.tokens,
                    think_seconds=think_seconds,
                )
                for prompt in prompts
            ]
            yield [turn for turn, _ in asked]
            history = asked[0][1]
