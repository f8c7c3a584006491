"""Other answers to the question which programs are kept in memory, to compare `cluster.fleet.programs` with.

All play with the policy ``programs``: who is not kept waits for room, and who began first goes first.
"""

from collections import deque
from collections.abc import Iterator

from cluster.fleet.programs import Program, Programs
from cluster.index.block_table import BlockKeys
from loadtest.simulator.workload import Session, Workload

FOR_EVER = 1e9


class Oracle(Programs):
    """Knows when programs will come back, and keeps those that come back before a turn would have ended."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self._away_seconds: dict[int, deque[float]] = {}
        for session in _all_sessions(workload.sessions + workload.programs):
            for turn, following in zip(session.turns, [*session.turns[1:], None], strict=True):
                same = following is not None and following.conversation_key == turn.conversation_key
                seconds = following.think_seconds if following and same else FOR_EVER
                self._away_seconds.setdefault(turn.conversation_key, deque()).append(seconds)
        self._next = FOR_EVER

    def comes_back_soon(self, key: int, keys: BlockKeys) -> bool:
        """Whether it will come back soon after the turn that is being decided."""
        return self._away_seconds[key][0] <= self.soon

    def end(self, key: int, seconds: float, capacity_blocks: int, now: float) -> None:
        """A program's turn has ended."""
        self._next = self._away_seconds[key].popleft()
        super().end(key, seconds, capacity_blocks, now)

    def _soon(self, opening: int, last: int) -> bool:
        return self._next <= self.soon


class FixedLifetime(Programs):
    """Every program is kept for ten seconds after each turn: what rules with a lifetime come to where that
    suits the tools (Continuum, arXiv 2511.02230; vllm-project/router, issue 285 and pull 286).

    Simplified: they derive the lifetime from what a miss costs and from the tools' times; Continuum pins
    blocks in the engine.
    """

    seconds = 10.0

    @property
    def soon(self) -> float:
        """The lifetime."""
        return self.seconds

    def comes_back_soon(self, key: int, keys: BlockKeys) -> bool:
        """All programs wait for room."""
        return True

    def _soon(self, opening: int, last: int) -> bool:
        return True


class ThunderAgent(Oracle):
    """Programs are kept until they end or are paused; where more is kept than fits, the smallest is paused.

    Source: ThunderAgent (arXiv 2602.13692), github.com/ThunderAgent-org/ThunderAgent,
    ``wiki/Scheduler.md``, with its default weight of 1 for programs that use a tool. Its clients say when a
    program has ended, so this one knows too. Simplified: at every tool boundary instead of every five
    seconds; the one that began first is resumed first, where theirs resumes the largest that fits; shared
    tokens are counted exactly.
    """

    @property
    def soon(self) -> float:
        """Half an hour, after which it resumes whatever waits."""
        return 1800.0

    def comes_back_soon(self, key: int, keys: BlockKeys) -> bool:
        """All programs wait for room."""
        return True

    def _soon(self, opening: int, last: int) -> bool:
        return self._next < FOR_EVER

    def _goes_before(self, program: Program, other: Program) -> bool:
        return program.prompt_tokens >= other.prompt_tokens


def _all_sessions(sessions: tuple[Session, ...]) -> Iterator[Session]:
    """With those of their sub-agents."""
    for session in sessions:
        yield session
        for turn in session.turns:
            yield from _all_sessions(turn.sub_agents)
