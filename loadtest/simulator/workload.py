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


@dataclass(frozen=True, slots=True)
class Session:
    """Turns of one client, each after the answer to the one before. One turn only: an open loop."""

    start: float
    """Seconds after the beginning of the workload."""
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """All sessions, in the order in which they start."""

    name: str
    block_size: int
    """Tokens per block."""
    sessions: tuple[Session, ...]

    @property
    def num_turns(self) -> int:
        """Requests in all sessions."""
        return sum(len(session.turns) for session in self.sessions)

    def faster(self, factor: float) -> "Workload":
        """The same sessions, starting ``factor`` times as often; clients think as long as before."""
        sessions = (replace(session, start=session.start / factor) for session in self.sessions)
        return replace(self, sessions=tuple(sessions))
