"""Multi-turn chat over a few system prompts, some of them far more popular than others."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.workloads.dialogue import Dialogue
from loadtest.workloads.draws import BLOCK_SIZE, Lengths, new_part, poisson_starts, zipf_weights
from loadtest.workloads.text import Part, Text


@dataclass(frozen=True, slots=True)
class Applications:
    """What conversations open with: the system prompt of one of several applications."""

    count: int = 12
    exponent: float = 1.0
    """Of the Zipf law of their popularity."""
    prompt: Lengths = Lengths(800, 0.6, 150, 3000)
    """Tokens of a system prompt."""

    def draw_prompts(self, source: Random) -> list[Part]:
        """All system prompts, the most popular first."""
        return [new_part(self.prompt, source) for _ in range(self.count)]

    def pick(self, prompts: list[Part], source: Random) -> Text:
        """How one conversation opens."""
        weights = zipf_weights(self.count, self.exponent)
        return Text(BLOCK_SIZE).then(source.choices(prompts, cum_weights=weights)[0])


CHAT = Dialogue(
    turns=Lengths(3, 0.6, 1, 10),
    question=Lengths(300, 1.0, 10, 3000),
    answer=Lengths(80, 0.6, 50, 400),
    think_seconds=8.0,
)


@dataclass(frozen=True, slots=True)
class Chat:
    """Open loop: new conversations arrive whatever the fleet does, and go on at their own pace."""

    conversations_per_second: float = 21.5
    seconds: float = 80.0
    """For as long new conversations arrive."""
    applications: Applications = Applications()
    dialogue: Dialogue = CHAT

    def build(self, seed: int) -> Workload:
        """Draw all conversations."""
        source = Random(seed)
        prompts = self.applications.draw_prompts(source)
        sessions = tuple(
            Session(start, tuple(self.dialogue.hold(self.applications.pick(prompts, source), source)))
            for start in poisson_starts(self.conversations_per_second, 0.0, self.seconds, source)
        )
        return Workload("chat", BLOCK_SIZE, sessions)


@dataclass(frozen=True, slots=True)
class ClosedChat:
    """Closed loop: a fixed number of users, who begin the next conversation when one has ended.

    A slow fleet gets fewer requests. All users have as many turns, so that they end at about the same time.
    """

    users: int = 680
    turns_per_user: int = 9
    applications: Applications = Applications()
    dialogue: Dialogue = CHAT

    def build(self, seed: int) -> Workload:
        """Draw all users."""
        source = Random(seed)
        prompts = self.applications.draw_prompts(source)
        starts = sorted(source.uniform(0.0, 2 * self.dialogue.think_seconds) for _ in range(self.users))
        sessions = tuple(Session(start, tuple(self._user(prompts, source))) for start in starts)
        return Workload("chat-closed", BLOCK_SIZE, sessions)

    def _user(self, prompts: list[Part], source: Random) -> Iterator[Turn]:
        left = self.turns_per_user
        while left:
            turns = list(self.dialogue.hold(self.applications.pick(prompts, source), source))[:left]
            if left < self.turns_per_user:
                turns[0] = replace(
                    turns[0], think_seconds=source.expovariate(1 / self.dialogue.think_seconds)
                )
            yield from turns
            left -= len(turns)
