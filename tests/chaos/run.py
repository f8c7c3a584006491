"""A whole run: rounds of faults under live traffic until the time is over, each judged when it is over."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import RedisError

from tests.chaos.converge import Look, booked, look, untrue
from tests.chaos.faults import Round, plan_round
from tests.chaos.fleet import Fleet
from tests.chaos.inject import KEYS, Injector
from tests.chaos.ledger import Ledger
from tests.chaos.report import Report, RoundReport
from tests.chaos.traffic import Traffic

CONVERGE_SECONDS = 2.0
SETTLE_SECONDS = 2.0
GIVE_UP_SECONDS = 20.0
"""After this long without agreement the replicas in question are made to start over, to go on at all."""
DRAIN_SECONDS = 20.0
LOOK_SECONDS = 0.05
LAG_SECONDS = 0.02
LONGEST_STREAK = 4
"""Rounds in a row that never converged before a run is given up."""


@dataclass(slots=True)
class Run:
    """One run. `until` it is over by the clock, or after ``num_rounds`` rounds."""

    fleet: Fleet
    seed: int
    report: Report
    tell: Callable[[str], None]
    converge_seconds: float = CONVERGE_SECONDS
    ledger: Ledger = field(default_factory=Ledger)
    lag: float = 0.0
    unseen: int = 0
    """Mirrors that could not be compared with their engine's own word, over all rounds."""
    _marks: dict[str, int] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    async def until(self, deadline: float, num_rounds: int = 1_000_000) -> None:
        """Run rounds until the deadline (of the monotonic clock)."""
        traffic = Traffic(self.fleet, self.ledger, self.seed)
        injector = Injector(self.fleet, self.ledger, self.report.restart_seconds)
        async with _running(traffic.run()), _running(self._measure_lag()):
            streak = 0
            for number in range(num_rounds):
                if time.monotonic() > deadline:
                    break
                round_ = await self._round(plan_round(self.seed, number), injector, traffic)
                streak = streak + 1 if round_.converged is None else 0
                if streak == LONGEST_STREAK:
                    self.report.aborted = f"{streak} rounds in a row never converged"
                    break
            traffic.pause()
            await self._drain(traffic)
            if self.report.rounds:
                self._note_failures(self.report.rounds[-1], traffic, time.monotonic())
        self._finish(traffic)

    async def _round(self, plan: Round, injector: Injector, traffic: Traffic) -> RoundReport:
        self.lag = 0.0
        self._marks = {process.name: process.mark() for process in self.fleet.processes}
        round_ = self.report.begin_round(plan, time.monotonic() - self._began)
        await injector.run(plan)
        lifted = time.monotonic()
        traffic.pause()
        seen = await self._converge(round_, lifted)
        await self._settle(round_, seen, traffic, lifted)
        traffic.resume()
        await injector.routers_ready()
        round_.lag = self.lag
        self._note_deaths(plan.number)
        self._note_failures(round_, traffic, lifted)
        took = "never" if round_.converged is None else f"{round_.converged:.2f} s"
        self.tell(f"round {plan.number}: {', '.join(round_.faults)}: agreed after {took}")
        return round_

    async def _converge(self, round_: RoundReport, lifted: float) -> Look:
        while True:
            began = time.monotonic()
            seen = await look(self.fleet)
            if not seen.differences:
                round_.converged = max(time.monotonic() - lifted, 0.0)
                break
            round_.last_difference = seen.differences[0]
            if began - lifted > GIVE_UP_SECONDS:
                break
            await asyncio.sleep(LOOK_SECONDS)
        if round_.converged is None or round_.converged > self.converge_seconds:
            took = "never" if round_.converged is None else f"after {round_.converged:.2f} s"
            self.report.add(
                round_.number,
                f"agreed {took}",
                f"{round_.last_difference} [{'; '.join(round_.faults)}] lag {self.lag:.2f} s",
                self._excerpts(*_named_in(seen.differences or [round_.last_difference])),
            )
        if round_.converged is None:
            await self._start_over(seen.differences)
        return seen

    async def _start_over(self, differences: list[str]) -> None:
        """Have the agents in question publish everything anew, so that later rounds say something new."""
        names = _named_in(differences)
        for engine in self.fleet.engines:
            if engine.agent.name in names:
                with contextlib.suppress(RedisError, OSError):
                    await self.fleet.redis.delete(KEYS.lease(engine.replica))
        await asyncio.sleep(2.0)

    async def _settle(self, round_: RoundReport, seen: Look, traffic: Traffic, lifted: float) -> None:
        """When all requests have ended: nothing is booked, and mirrors hold what engines hold."""
        if not await self._drain(traffic):
            self.report.add(
                round_.number,
                "requests do not end",
                f"{traffic.open_requests} open {DRAIN_SECONDS:g} s after the last fault was lifted "
                f"[{'; '.join(round_.faults)}]",
            )
            return
        drained = time.monotonic()
        round_.drained = drained - lifted
        while True:
            wrong = await booked(self.fleet)
            wrong += untrue(self.fleet, seen) if not seen.differences else seen.differences
            if not wrong:
                self.unseen += sum(not engine.shadow.complete for engine in self.fleet.engines)
                round_.settled = time.monotonic() - drained
                return
            if time.monotonic() - drained > SETTLE_SECONDS and round_.converged is not None:
                break
            if time.monotonic() - drained > GIVE_UP_SECONDS:
                break
            await asyncio.sleep(LOOK_SECONDS)
            seen = await look(self.fleet)
        self.report.add(
            round_.number,
            f"not settled {SETTLE_SECONDS:g} s after the last request",
            f"{'; '.join(wrong)} [{'; '.join(round_.faults)}] lag {self.lag:.2f} s",
            self._excerpts(*_named_in(wrong)),
        )

    async def _drain(self, traffic: Traffic) -> bool:
        deadline = time.monotonic() + DRAIN_SECONDS
        while traffic.open_requests:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    def _note_failures(self, round_: RoundReport, traffic: Traffic, lifted: float) -> None:
        """Report what clients have seen and should not have."""
        failures, traffic.violations = traffic.violations, []
        for result in failures:
            self.report.add(
                round_.number,
                result.outcome,
                f"{result.router} to {result.replica or 'nobody'}, began {result.began - lifted:+.2f} s "
                f"after the last fault was lifted, took {result.seconds:.2f} s: {result.detail} "
                f"[{'; '.join(round_.faults)}]",
                self._excerpts(result.router),
            )

    def _note_deaths(self, number: int) -> None:
        for process in self.fleet.processes:
            code = process.exit_code
            if code is not None:
                self.report.add(
                    number,
                    f"{process.name} died by itself",
                    f"exit {code}",
                    {process.name: process.log_since(self._marks.get(process.name, 0))[-2000:]},
                )
                process.start()

    async def _measure_lag(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(LAG_SECONDS)
            self.lag = max(self.lag, time.monotonic() - began - LAG_SECONDS)

    def _excerpts(self, *names: str) -> dict[str, str]:
        """What these processes have logged in this round."""
        return {
            process.name: _newest(process.log_since(self._marks.get(process.name, 0)))
            for process in self.fleet.processes
            if process.name in names
        }

    def _finish(self, traffic: Traffic) -> None:
        report = self.report
        report.seconds = time.monotonic() - self._began
        report.outcomes = {str(outcome): count for outcome, count in traffic.outcomes.items()}
        report.slowest_request = traffic.slowest
        for engine in self.fleet.engines:
            for name, count in engine.relay.counts.items():
                report.events[name] = report.events.get(name, 0) + count
        compared = len(report.rounds) * len(self.fleet.engines)
        report.skipped = {f"of {compared} comparisons of a mirror with its engine's own word": self.unseen}
        levels: Counter[str] = Counter()
        for process in self.fleet.processes:
            _read_log(process.name, process.log, levels, report)
        report.log_levels = dict(sorted(levels.items()))


def _read_log(name: str, path: Path, levels: Counter[str], report: Report) -> None:
    text = path.read_text(errors="replace") if path.exists() else ""
    levels["Traceback in " + name.rstrip("0123456789")] += text.count("\nTraceback")
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            level = entry.get("level", "info")
            if level not in ("info", "debug"):
                levels[f"{level} {entry.get('event')}"] += 1
            if level == "critical":
                report.add(-1, f"{name} logs a critical line", line[:2000])
    for kind in [kind for kind, count in levels.items() if not count]:
        del levels[kind]


def _named_in(differences: list[str]) -> set[str]:
    """Names of agents and routers in lines about differences."""
    words = {word.strip(":,;") for line in differences for word in line.split()}
    return {word for word in words if word.startswith(("agent", "router")) and word[-1].isdigit()}


def _newest(text: str) -> str:
    lines = [line for line in text.splitlines() if '"request' not in line]
    return "\n".join(lines[-8:])


@contextlib.asynccontextmanager
async def _running(work: object) -> AsyncIterator[None]:
    """A task for as long as the context is open; when it fails, so does the context."""
    task = asyncio.ensure_future(work)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
