"""Agents in a closed loop, as clients that run many of them: so many at once, each until its task is done.

Sources of the numbers. Tools: 86.5% of an agent's next requests come within 1 s and 95.1% within 10 s in a
trace of a coding agent (vllm-project/router, issue 285), which a lognormal law with median 10 ms and sigma
4.17 meets. Turns: 10.9 in the mean on SWE-Bench, and 6.3 on BFCL (Continuum, arXiv 2511.02230); TraceLab's
sessions of daily use (tracelab.cs.washington.edu) have 8 tool-initiated steps per request of a person. Half
a minute between turns of people is our assumption.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.workloads.dialogue import ask
from loadtest.workloads.draws import BLOCK_SIZE, Lengths, new_part, poisson_starts
from loadtest.workloads.text import Text

TOOL_SECONDS = (0.01, 4.17)
"""Median, and sigma of the logarithm."""
TOOL_LIMITS = (0.005, 120.0)
"""Shortest and longest, in seconds."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Coding agents: a system prompt with tools that all share, a task, and what tools return."""

    programs: int = 200
    at_once: int = 64
    system_prompt: int = 2_048
    """Tokens."""
    tasks: int = 0
    """Different tasks, of which each is tried equally often, as in RL rollouts; 0: one for each program."""
    task: Lengths = Lengths(1_500, 0.6, 200, 6_000)
    """Tokens of the first user message."""
    turns: Lengths = Lengths(15, 0.4, 4, 40)
    answer: Lengths = Lengths(120, 0.8, 20, 600)
    """Tokens."""
    tool_output: Lengths = Lengths(450, 0.9, 20, 4_000)
    """Tokens."""
    sub_agent_share: float = 0.0
    """Share of the turns whose tool is an agent of its own, with a third of the turns."""
    people_per_second: float = 0.0
    """New conversations of people, in an open loop beside the agents."""
    people_seconds: float = 300.0
    """How long new people arrive."""
    people_turns: Lengths = Lengths(5, 0.5, 2, 12)
    people_think_seconds: float = 30.0
    """Mean pause before each turn but the first, exponential."""
    question: Lengths = Lengths(120, 0.9, 10, 1_500)
    """Tokens."""

    def build(self, seed: int) -> Workload:
        """Draw all programs and people."""
        source = Random(seed)
        opening = Text(BLOCK_SIZE).then(new_part(Lengths(self.system_prompt, 0, 1, 10**6), source))
        tasks = [new_part(self.task, source) for _ in range(self.tasks or self.programs)]
        programs = tuple(
            Session(0.0, tuple(self._agent(opening.then(tasks[number % len(tasks)]), opening, source, True)))
            for number in range(self.programs)
        )
        people = (
            tuple(
                Session(start, tuple(self._person(source)))
                for start in poisson_starts(self.people_per_second, 0.0, self.people_seconds, source)
            )
            if self.people_per_second
            else ()
        )
        return Workload("programs", BLOCK_SIZE, people, programs, self.at_once)

    def _agent(self, history: Text, opening: Text, source: Random, may_delegate: bool) -> Iterator[Turn]:
        conversation_key = source.getrandbits(64)
        num_turns = self.turns.draw(source)
        for number in range(num_turns if may_delegate else max(num_turns // 3, 2)):
            if number:
                history = history.then(new_part(self.tool_output, source))
            sub_agents: tuple[Session, ...] = ()
            if may_delegate and source.random() < self.sub_agent_share:
                started = opening.then(new_part(self.task, source))
                sub_agents = (Session(0.0, tuple(self._agent(started, opening, source, False))),)
            turn, history = ask(
                history,
                new_part(self.answer, source),
                conversation_key=conversation_key,
                opening_tokens=opening.tokens,
                think_seconds=_tool_seconds(source) if number else 0.0,
                sub_agents=sub_agents,
            )
            yield turn

    def _person(self, source: Random) -> Iterator[Turn]:
        history, conversation_key = Text(BLOCK_SIZE).then(new_part(self.task, source)), source.getrandbits(64)
        for number in range(self.people_turns.draw(source)):
            history = history.then(new_part(self.question, source))
            turn, history = ask(
                history,
                new_part(self.answer, source),
                conversation_key=conversation_key,
                opening_tokens=0,
                think_seconds=source.expovariate(1 / self.people_think_seconds) if number else 0.0,
                tenant=PEOPLE,
            )
            yield turn


PEOPLE = 1
"""The tenant of people; agents have tenant 0."""


def _tool_seconds(source: Random) -> float:
    median, sigma = TOOL_SECONDS
    shortest, longest = TOOL_LIMITS
    return min(max(median * source.lognormvariate(0.0, sigma), shortest), longest)
