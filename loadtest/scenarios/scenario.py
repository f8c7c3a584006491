"""Scenario files: who uses a system, and how. The same file drives the simulator and real clients."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path
from random import Random
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from loadtest.scenarios.script import Screenwriter, ScriptedSession
from loadtest.scenarios.spec import Arrivals, Specification, UserKind
from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.workloads.dialogue import ask
from loadtest.workloads.draws import BLOCK_SIZE, poisson_starts
from loadtest.workloads.text import Part, Text, mix


def simulated_sessions(session: ScriptedSession, block_size: int) -> list[Session]:
    """The conversation, and a session for each of the requests that go out beside it.

    These run in step by their pauses only, as in `loadtest.workloads.agents`.
    """
    lanes = zip(*_steps(session, block_size), strict=True)
    return [Session(session.start, lane) for lane in lanes]


def _steps(session: ScriptedSession, block_size: int) -> Iterator[list[Turn]]:
    """The requests of each turn; the first one's answer continues the conversation."""
    said = Text(block_size) if session.opening is None else Text(block_size).then(session.opening)
    opening_tokens = said.tokens
    if session.document:
        said = said.then(session.document)
    conversation_key = 0
    for number, turn in enumerate(session.turns):
        asked = said.then(turn.question)
        if number == 0:
            conversation_key = asked.identity
        prompts = [(asked, turn.answer_tokens)]
        prompts += [(asked.then(instruction), tokens) for instruction, tokens in turn.burst]
        answered = [
            ask(
                prompt,
                Part(mix(prompt.identity, tokens), tokens),
                conversation_key=conversation_key,
                opening_tokens=opening_tokens,
                think_seconds=turn.think_seconds,
                tenant=session.tenant or 0,
            )
            for prompt, tokens in prompts
        ]
        yield [simulated for simulated, _ in answered]
        said = answered[0][1]


DIRECTORY = Path(__file__).parent
MAX_BYTES = 1 << 20
ARRIVALS = 0xA221
"""Sets the draws of arrivals apart from those of conversations."""


class ScenarioError(ValueError):
    """A scenario cannot be read; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Who uses a system, and how."""

    name: str
    description: str
    arrivals: Arrivals
    kinds: Mapping[str, UserKind]

    def writer(self, kind: str, seed: int) -> Screenwriter:
        """The source of one kind's conversations: for a fixed number of users."""
        return Screenwriter(kind, self.kinds[kind], seed)

    def sessions(self, seed: int, seconds: float | None = None) -> Iterator[ScriptedSession]:
        """All conversations in the order in which they start. New ones arrive at the scenario's rate, for
        ``seconds`` instead of as long as it says.

        Of each kind they are numbers 0, 1, 2, ... of its `writer`.
        """
        end = self.arrivals.seconds if seconds is None else seconds
        source = Random(mix(seed % 2**64, ARRIVALS))
        writers = [self.writer(kind, seed) for kind in self.kinds]
        numbers = [count() for _ in writers]
        weights = list(accumulate(spec.weight for spec in self.kinds.values()))
        for start in poisson_starts(self.arrivals.conversations_per_second, 0.0, end, source):
            chosen = source.choices(range(len(writers)), cum_weights=weights)[0]
            yield writers[chosen].session(next(numbers[chosen]), start)

    def workload(self, seed: int, block_size: int = BLOCK_SIZE, seconds: float | None = None) -> Workload:
        """The same conversations for the simulator, known by their block keys."""
        sessions = tuple(
            simulated
            for session in self.sessions(seed, seconds)
            for simulated in simulated_sessions(session, block_size)
        )
        return Workload(self.name, block_size, sessions)


def scenario_names() -> list[str]:
    """The scenarios that come with the package."""
    return sorted(path.stem for path in DIRECTORY.glob("*.toml"))


def scenario_path(name_or_path: str | Path) -> Path:
    """Where a scenario is: one of the package by its name, or any other. Raises `ScenarioError`."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return path
    if str(path) not in scenario_names():
        names = ", ".join(scenario_names())
        raise ScenarioError(
            f"unknown scenario {path}: choose one of {names}, or give the path of a .toml file"
        )
    return DIRECTORY / f"{path}.toml"


def load_scenario(name_or_path: str | Path) -> Scenario:
    """A scenario of the package by its name, or any other by its file's path.

    Raises `ScenarioError`.
    """
    path = scenario_path(name_or_path)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > MAX_BYTES:
        raise ScenarioError(f"{path}: longer than {MAX_BYTES:,} bytes")
    try:
        specification = Specification.model_validate(tomllib.loads(text.decode()))
    except ValidationError as error:
        raise ScenarioError(f"{path}: {'; '.join(map(_complaint, error.errors()))}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ScenarioError(f"{path}: {error}") from error
    return Scenario(
        path.stem,
        specification.description,
        specification.arrivals,
        MappingProxyType(specification.users),
    )


def _complaint(error: ErrorDetails) -> str:
    field = ".".join(str(part) for part in error["loc"] if part != "[key]")
    message = error["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
