"""Multi-turn chat: at a steady rate, in bursts, of tenants, and while a system prompt is replaced."""

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
    """The exponent of the Zipf law of their popularity."""
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
    """How long new conversations arrive."""
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


@dataclass(frozen=True, slots=True)
class Bursts:
    """Open loop: short conversations with moderately shared prompts, switched between two rates.

    Each period is between 0.8 and 1.2 times as long as the mean.
    """

    conversations_per_second: float = 37.0
    """Mean over quiet periods and bursts."""
    burst_factor: float = 5.0
    """Rate in a burst over the mean rate."""
    burst_seconds: float = 2.0
    """Mean length of a burst."""
    quiet_seconds: float = 15.0
    """Mean length of a quiet period."""
    seconds: float = 100.0
    """How long new conversations arrive."""
    applications: Applications = Applications(count=30, exponent=0.8, prompt=Lengths(700, 0.5, 150, 2000))
    dialogue: Dialogue = Dialogue(
        turns=Lengths(1.5, 0.5, 1, 3),
        question=Lengths(600, 0.8, 10, 3000),
        answer=Lengths(75, 0.6, 50, 400),
        think_seconds=4.0,
    )

    def build(self, seed: int) -> Workload:
        """Draw all conversations."""
        source = Random(seed)
        prompts = self.applications.draw_prompts(source)
        sessions = tuple(
            Session(start, tuple(self.dialogue.hold(self.applications.pick(prompts, source), source)))
            for start in self._starts(source)
        )
        return Workload("bursts", BLOCK_SIZE, sessions)

    def _starts(self, source: Random) -> Iterator[float]:
        """Arrivals, beginning with a quiet period."""
        burst_share = self.burst_seconds / (self.burst_seconds + self.quiet_seconds)
        burst_rate = self.conversations_per_second * self.burst_factor
        quiet_rate = (self.conversations_per_second - burst_rate * burst_share) / (1 - burst_share)
        begin, quiet = 0.0, True
        while begin < self.seconds:
            length = source.uniform(0.8, 1.2) * (self.quiet_seconds if quiet else self.burst_seconds)
            end = min(begin + length, self.seconds)
            yield from poisson_starts(quiet_rate if quiet else burst_rate, begin, end, source)
            begin, quiet = end, not quiet


@dataclass(frozen=True, slots=True)
class Rollout:
    """Open loop: chat after one long system prompt, which is replaced in the middle.

    Conversations that have begun go on with the prompt they began with.
    """

    conversations_per_second: float = 23.0
    seconds: float = 80.0
    """How long new conversations arrive."""
    prompt_tokens: int = 1800
    """The length of either system prompt."""
    dialogue: Dialogue = CHAT

    def build(self, seed: int) -> Workload:
        """Draw all conversations."""
        source = Random(seed)
        before, after = (
            Text(BLOCK_SIZE).then(Part(source.getrandbits(64), self.prompt_tokens)) for _ in range(2)
        )
        sessions = tuple(
            Session(start, tuple(self.dialogue.hold(before if 2 * start < self.seconds else after, source)))
            for start in poisson_starts(self.conversations_per_second, 0.0, self.seconds, source)
        )
        return Workload("rollout", BLOCK_SIZE, sessions)


@dataclass(frozen=True, slots=True)
class Tenants:
    """Open loop: each tenant has its own system prompt; tenant 0 is the biggest."""

    conversations_per_second: float = 29.0
    seconds: float = 90.0
    """How long new conversations arrive."""
    tenants: int = 200
    tenants_exponent: float = 1.2
    """The exponent of the Zipf law of their traffic."""
    system_prompt: Lengths = Lengths(900, 0.7, 150, 4000)
    """Tokens."""
    dialogue: Dialogue = Dialogue(
        turns=Lengths(2, 0.6, 1, 6),
        question=Lengths(350, 0.9, 10, 3000),
        answer=Lengths(75, 0.6, 50, 400),
        think_seconds=8.0,
    )

    def build(self, seed: int) -> Workload:
        """Draw all conversations."""
        source = Random(seed)
        openings = [Text(BLOCK_SIZE).then(new_part(self.system_prompt, source)) for _ in range(self.tenants)]
        weights = zipf_weights(self.tenants, self.tenants_exponent)
        sessions = []
        for start in poisson_starts(self.conversations_per_second, 0.0, self.seconds, source):
            tenant = source.choices(range(self.tenants), cum_weights=weights)[0]
            sessions.append(
                Session(start, tuple(self.dialogue.hold(openings[tenant], source, tenant=tenant)))
            )
        return Workload("tenants", BLOCK_SIZE, tuple(sessions))
