"""Plays one round: holds scripted conversations with one arm, and measures every answer."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from random import Random

import numpy as np

from loadtest.harness.chat_answers import Reply, RequestFailedError
from loadtest.harness.chat_client import ChatClient
from loadtest.scenarios.english import NOUNS
from loadtest.scenarios.scenario import Scenario
from loadtest.scenarios.script import Message, ScriptedSession
from loadtest.trial.machine import OtherWork
from loadtest.trial.records import Answer, Lag, Round

LAG_SECONDS = 0.02
"""How often the generator looks whether it runs late."""
WATCH_SECONDS = 1.0
MAX_CONVERSATIONS = 20_000
TAG_WORDS = 6


@dataclass(frozen=True, slots=True)
class Traffic:
    """Which conversations a round holds, and when. The same for all arms."""

    scenario: Scenario
    seed: int
    seconds: float
    rate: float
    """New conversations per second."""
    users: int | None = None
    """So many users who hold one conversation after the other, instead of conversations that arrive at a
    rate."""
    think_scale: float = 1.0
    drain_seconds: float = math.inf
    """How long open conversations may go on when no new one begins."""

    def sessions(self) -> list[ScriptedSession]:
        """Conversations that arrive at a rate."""
        arrivals = self.scenario.arrivals.model_copy(update={"conversations_per_second": self.rate})
        arriving = replace(self.scenario, arrivals=arrivals).sessions(self.seed, self.seconds)
        return list(islice(arriving, MAX_CONVERSATIONS))

    def longest_seconds(self) -> float:
        """How long a round takes on a fleet that answers at once: until its last conversation has ended."""
        if self.users:
            return self.seconds
        pauses = ((one.start, sum(turn.think_seconds for turn in one.turns)) for one in self.sessions())
        return max((start + self.think_scale * pause for start, pause in pauses), default=self.seconds)

    def users_kinds(self) -> list[str]:
        """The kind of each user, by the kinds' weights."""
        kinds = list(self.scenario.kinds)
        weights = [spec.weight for spec in self.scenario.kinds.values()]
        places = (np.arange(self.users or 0) + 0.5) / max(self.users or 0, 1) * sum(weights)
        return [kinds[int(place)] for place in np.searchsorted(np.cumsum(weights), places)]

    def sessions_of_user(self, user: int, kind: str) -> Iterator[ScriptedSession]:
        """One user's conversations, without end."""
        writer = self.scenario.writer(kind, self.seed)
        return (writer.session(number) for number in count(user, self.users or 1))


def draw_tag(source: Random) -> str:
    """A few words that stand first in every prompt of a round, so that no round finds the blocks of another.

    Words, and not a salt in the request's body, since they work with every server. Each is one token, so
    prompts of all rounds are equally long.
    """
    return " ".join(source.choice(NOUNS) for _ in range(TAG_WORDS)).capitalize() + ". "


def tagged(messages: Sequence[Message], tag: str) -> list[Message]:
    """The same messages, the first of which begins with the tag."""
    first, *others = messages
    return [{**first, "content": tag + first["content"]}, *others]


def answer_of(reply: Reply, conversation: str, turn: int, sent: float) -> Answer:
    """A reply, with what it answers."""
    return Answer(
        conversation=conversation,
        turn=turn,
        sent=sent,
        ttft=reply.first_token,
        latency=reply.latency,
        prompt_tokens=reply.prompt_tokens,
        cached_tokens=reply.cached_tokens or 0,
        output_tokens=reply.output_tokens,
        replica=reply.replica,
    )


class Player:
    """Plays one round on one arm."""

    def __init__(
        self, client: ChatClient, model: str, traffic: Traffic, tag: str, told: Callable[[Answer], None]
    ) -> None:
        self._client = client
        self._model = model
        self._traffic = traffic
        self._tag = tag
        self._published = told
        self._answers: list[Answer] = []
        self._cut_off = 0
        self._started = 0.0

    async def play(self, arm: str, number: int, watch: Callable[[], None]) -> Round:
        """Hold all conversations to their end. ``watch`` is called every second and may raise."""
        traffic = self._traffic
        self._started = time.perf_counter()
        delays: list[float] = [0.0]
        lag = asyncio.create_task(_measure_lag(delays))
        machine = OtherWork()
        work = self._tasks()
        try:
            deadline = self._started + traffic.seconds + traffic.drain_seconds
            while work and time.perf_counter() < deadline:
                done, work = await asyncio.wait(work, timeout=WATCH_SECONDS)
                for task in done:
                    task.result()
                watch()
            self._cut_off = len(work)
        finally:
            for task in (*work, lag):
                task.cancel()
            await asyncio.gather(*work, lag, return_exceptions=True)
        return Round(
            arm=arm,
            number=number,
            rate=traffic.rate,
            seconds=traffic.seconds,
            duration=self._now(),
            answers=self._answers,
            lag=Lag(*(float(np.percentile(delays, percent)) for percent in (99, 100))),
            cut_off=self._cut_off,
            others=machine.share(),
        )

    def _now(self) -> float:
        return time.perf_counter() - self._started

    def _tasks(self) -> set["asyncio.Task[None]"]:
        if self._traffic.users:
            users: Iterator[Awaitable[None]] = (
                self._live(self._traffic.sessions_of_user(user, kind))
                for user, kind in enumerate(self._traffic.users_kinds())
            )
        else:
            users = (self._arrive(session) for session in self._traffic.sessions())
        return {asyncio.ensure_future(user) for user in users}

    async def _arrive(self, session: ScriptedSession) -> None:
        await asyncio.sleep(session.start - self._now())
        await self._converse(session)

    async def _live(self, sessions: Iterator[ScriptedSession]) -> None:
        for session in sessions:
            await asyncio.sleep(session.pause_seconds * self._traffic.think_scale)
            if self._now() >= self._traffic.seconds:
                return
            await self._converse(session)

    async def _converse(self, session: ScriptedSession) -> None:
        """Hold one conversation. It ends early when a request fails."""
        history = session.first_messages()
        for number, turn in enumerate(session.turns):
            await asyncio.sleep(turn.think_seconds * self._traffic.think_scale)
            requests = session.requests(number, history)
            name = f"{session.kind}:{session.number}"
            answers = await asyncio.gather(*(self._ask(*request, name, number) for request in requests))
            if answers[0] is None:
                return
            history = [*requests[0][0], {"role": "assistant", "content": answers[0]}]

    async def _ask(self, messages: list[Message], max_tokens: int, name: str, turn: int) -> str | None:
        sent = self._now()
        text: str | None = None
        try:
            reply = await self._client.ask(self._model, tagged(messages, self._tag), max_tokens)
            text, answer = reply.text, answer_of(reply, name, turn, sent)
        except RequestFailedError as error:
            answer = Answer(name, turn, sent, math.nan, self._now() - sent, error=str(error))
        self._answers.append(answer)
        self._published(answer)
        return text


async def _measure_lag(delays: list[float]) -> None:
    """Until cancelled: how much later than it asked to the generator's event loop woke up, in seconds."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(LAG_SECONDS)
        delays.append(max(time.perf_counter() - before - LAG_SECONDS, 0.0))
