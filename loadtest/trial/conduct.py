"""Runs a trial: probes on the idle fleet, rounds of all arms by turns, then the sweep.

All arms play a round before the next one begins, in an order that is drawn: what changes slowly on the
machine meets both arms alike. Rounds of one number hold the same conversations. Each begins with empty caches
where engines let themselves be emptied; elsewhere the words in front of every prompt keep rounds apart, and
what is left in the caches are the blocks of rounds before, of the other arm as often as of the own.
"""

import secrets
import sys
from collections.abc import Callable, Sequence
from random import Random

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.prompt import Confirm

from loadtest.harness.chat_answers import RequestFailedError
from loadtest.harness.chat_client import ChatClient
from loadtest.scenarios.scenario import Scenario
from loadtest.scenarios.script import Message, ScriptedSession
from loadtest.trial.compare import compare_all, rounds_for
from loadtest.trial.fleet import Fleet, TrialError
from loadtest.trial.player import Player, Traffic, answer_of, draw_tag, tagged
from loadtest.trial.records import Answer, Probe, Round, Trial
from loadtest.trial.saturation import step_of
from loadtest.trial.settings import Arm, TrialSettings
from loadtest.trial.statistics import MOST_ROUNDS
from loadtest.trial.text import duration
from loadtest.trial.verdict import rounds_sentence

PROBE_TOKENS = 4
"""The length of a probe's answer."""
WARM_UP_PROBES = 4
SHORTEST_PROBE = 0.25
MOST_OFFERED = 10
"""Times as many rounds as were played that are offered."""


class Conductor:
    """One trial on one fleet."""

    def __init__(self, settings: TrialSettings, scenario: Scenario, fleet: Fleet, console: Console) -> None:
        self._settings = settings
        self._scenario = scenario
        self._fleet = fleet
        self._source = Random(secrets.randbits(64))
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    async def run(self) -> tuple[list[Probe], list[Round], list[Round]]:
        """Probes, rounds, and rounds of the sweep. Raises `TrialError` when the fleet does not serve."""
        self._announce()
        with self._progress:
            probes = await self._probe()
            rounds: list[Round] = []
            await self._play_rounds(rounds, range(self._settings.rounds))
            while more := self._missing(rounds):
                played = len(rounds) // len(self._fleet.arms)
                await self._play_rounds(rounds, range(played, played + more))
            sweep = await self._sweep()
        return probes, rounds, sweep

    async def _probe(self) -> list[Probe]:
        """Ask the last arm, one prompt at a time, each twice: what a cache is worth without any queue.

        Half of the prompts are cut, so that the time per token can be told from that per request.
        """
        arm, count = self._fleet.arms[-1], self._settings.probes
        await self._fleet.prepare(arm)
        client, probes = self._fleet.clients[arm.name], []
        sessions = _some_sessions(self._settings.traffic(self._scenario, 0), WARM_UP_PROBES + count)
        shown = self._progress.add_task("Probes on the idle fleet", total=len(sessions), said="")
        for number, session in enumerate(sessions):
            share = 1.0 if number % 2 else self._source.uniform(SHORTEST_PROBE, 1.0)
            messages = _cut(session.requests(0, session.first_messages())[0][0], share)
            probe = await self._ask_twice(client, tagged(messages, draw_tag(self._source)), number)
            if number >= WARM_UP_PROBES:
                probes.append(probe)
            self._progress.advance(shown)
            self._fleet.watch()
        self._progress.remove_task(shown)
        return probes

    async def _ask_twice(self, client: ChatClient, messages: list[Message], number: int) -> Probe:
        answers = []
        for turn in range(2):
            try:
                reply = await client.ask(self._fleet.model, messages, PROBE_TOKENS)
            except RequestFailedError as error:
                raise TrialError(f"the fleet does not answer: {error}") from error
            answers.append(answer_of(reply, f"probe:{number}", turn, 0.0))
        return Probe(*answers)

    def _announce(self) -> None:
        """Say how long it will take: conversations are held to their end, which can take longer than
        ``--seconds``."""
        settings, arms = self._settings, len(self._fleet.arms)
        seconds = settings.traffic(self._scenario, 0).longest_seconds()
        text = f"  {settings.rounds} rounds of each arm, about {duration(seconds)} each"
        if seconds > settings.seconds:
            text += (
                f": conversations begin for {settings.seconds:g} s and are held to their end, with pauses "
                "for thought (--think-scale)"
            )
        total = arms * settings.rounds * seconds + arms * len(settings.sweep) * settings.seconds
        self._progress.console.print(f"{text}; about {duration(total)} in all")

    def _missing(self, rounds: Sequence[Round]) -> int:
        """Further rounds of each arm that the wanted difference needs, and the user wants."""
        arms = [arm.name for arm in self._fleet.arms]
        so_far = Trial("", "", arms, (), rounds, (), difference=self._settings.difference)
        needed, played = rounds_for(compare_all(so_far)), len(rounds) // len(arms)
        if needed is None or needed <= played:
            return 0
        if self._settings.max_rounds:
            return max(min(needed, self._settings.max_rounds) - played, 0)
        console = self._progress.console
        if needed > MOST_OFFERED * played or not (console.is_terminal and sys.stdin.isatty()):
            return 0
        self._progress.stop()
        wanted = Confirm.ask(f"{rounds_sentence(so_far, needed)} Play them?", console=console, default=False)
        self._progress.start()
        return needed - played if wanted else 0

    async def _play_rounds(self, rounds: list[Round], numbers: range) -> None:
        """Add rounds of these numbers."""
        arms = list(self._fleet.arms)
        for number in numbers:
            self._source.shuffle(arms)
            for arm in arms:
                what = f"Round {len(rounds) + 1} of {len(arms) * numbers.stop}: {arm.name}"
                traffic = self._settings.traffic(self._scenario, number)
                rounds.append(await self._play(arm, number, traffic, what))

    async def _sweep(self) -> list[Round]:
        """Raise the rate, without the arms that are saturated."""
        arms, rounds = list(self._fleet.arms), list[Round]()
        for number, multiple in enumerate(self._settings.sweep):
            traffic = self._settings.traffic(self._scenario, number + MOST_ROUNDS, multiple)
            for arm in list(arms) if number % 2 == 0 else list(reversed(arms)):
                what = f"Sweep at {multiple:g} times the rate: {arm.name}"
                one = await self._play(arm, number, traffic, what)
                rounds.append(one)
                if step_of(one, self._settings.ttft_goal).saturated:
                    arms.remove(arm)
        return rounds

    async def _play(self, arm: Arm, number: int, traffic: Traffic, what: str) -> Round:
        await self._fleet.prepare(arm)
        shown = self._progress.add_task(what, total=_requests(traffic), said="")
        player = Player(
            self._fleet.clients[arm.name],
            self._fleet.model,
            traffic,
            draw_tag(self._source),
            self._publish(shown),
        )
        one = await player.play(arm.name, number, self._fleet.watch)
        self._progress.remove_task(shown)
        if not self._progress.console.is_terminal:
            self._progress.console.print(f"  … {what}: {len(one.good)} answers in {one.duration:.0f} s")
        if one.answers and not one.good:
            raise TrialError(f"{arm.name} answers nothing: {one.answers[-1].error}")
        return one

    def _publish(self, shown: TaskID) -> Callable[[Answer], None]:
        count = failed = 0

        def told(answer: Answer) -> None:
            nonlocal count, failed
            count += 1
            failed += bool(answer.error)
            said = f"{count} answers" + (f", {failed} failed" if failed else "")
            self._progress.update(shown, advance=1, said=said)

        return told


def _requests(traffic: Traffic) -> int | None:
    """How many requests a round has, where that is known beforehand."""
    if traffic.users:
        return None
    return sum(1 + len(turn.burst) for session in traffic.sessions() for turn in session.turns)


def _some_sessions(traffic: Traffic, count: int) -> list[ScriptedSession]:
    kinds = list(traffic.scenario.kinds)
    writers = [traffic.scenario.writer(kind, traffic.seed) for kind in kinds]
    return [writers[number % len(writers)].session(number) for number in range(count)]


def _cut(messages: Sequence[Message], share: float) -> list[Message]:
    """The same messages with the first one cut to a share of its words."""
    first, *others = messages
    words = first["content"].split(" ")
    return [{**first, "content": " ".join(words[: max(int(len(words) * share), 1)])}, *others]
