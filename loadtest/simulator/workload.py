"""What clients send, drawn in advance: the same for every policy, replica count and run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Turn:
    """One request, and how long its client thinks before it."""

    think_seconds: float
    """The pause after the session's previous answer; before the first turn, after the session's start."""
    prompt_tokens: int
    output_tokens: int
    """At least 1."""
    keys: Sequence[int]
    """Block keys of all full blocks of prompt and answer: equal keys mean equal text up to there."""
    conversation_key: int
    """64 bits that stay the same over all turns of a conversation."""
    opening_tokens: int
    """Leading tokens that other conversations share (system prompt, tools)."""
    tenant: int = 0
    sub_agents: tuple["Session", ...] = ()
    """Started when this turn has been answered; the pause before the next turn begins when all have ended."""


@dataclass(frozen=True, slots=True)
class Session:
    """Turns of one client, each after the answer to the one before. One turn only: an open loop."""

    start: float
    """Seconds after the beginning of the workload, or after what made a program or sub-agent start."""
    turns: tuple[Turn, ...]

    @property
    def num_turns(self) -> int:
        """Requests of it and of its sub-agents."""
        sub_agents = (agent for turn in self.turns for agent in turn.sub_agents)
        return len(self.turns) + sum(agent.num_turns for agent in sub_agents)


@dataclass(frozen=True, slots=True)
class Workload:
    """All sessions, in the order in which they start."""

    name: str
    block_size: int
    """Tokens per block."""
    sessions: tuple[Session, ...]
    programs: tuple[Session, ...] = ()
    """Further sessions, in a closed loop: ``at_once`` of them are played at a time, and whenever one ends the
    next one starts."""
    at_once: int = 0

    @property
    def num_turns(self) -> int:
        """Requests in all sessions."""
        return sum(session.num_turns for session in (*self.sessions, *self.programs))

    def faster(self, factor: float) -> "Workload":
        """The same sessions, starting ``factor`` times as often; clients think as long as before."""
        sessions = (replace(session, start=session.start / factor) for session in self.sessions)
        return replace(self, sessions=tuple(sessions))
