"""Where a test's figures go: into our own tally, and into Locust's table of statistics."""

import os
import time
from pathlib import Path
from typing import Any

from locust.env import Environment
from locust.stats import StatsEntry

from loadtest.harness.chat_answers import Reply, RequestFailedError
from loadtest.users.tally import Row, Tally, Work, bounded

SCHEDULER = Path("/proc/thread-self/schedstat")
"""This thread's nanoseconds on a CPU, nanoseconds of waiting for one, and how often it ran."""


class Recorder:
    """Counts what this process sees. Rows of other measures than requests leave Locust's totals alone."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._process = f"{os.uname().nodename}:{os.getpid()}"
        self.tally = Tally()
        self.started = time.time()
        self._measured = _clocks()

    def answered(self, kind: str, first_turn: bool, answer: Reply) -> None:
        """One request has been answered."""
        rows = self.tally.first_turns if first_turn else self.tally.later_turns
        _count(bounded(rows, kind, Row), answer)
        name = _name(kind, first_turn)
        self._fire(name, answer.latency, answer.size, None)
        if answer.ttft is not None:
            self._entry("TTFT", name).log(round(1000 * answer.ttft), 0)
        if (time_per_token := answer.time_per_output_token) is not None:
            self._entry("TPOT", name).log(round(1000 * time_per_token), 0)
        if answer.cached_tokens is not None:
            self._entry("CACHED TOKENS", name).log(answer.cached_tokens, 0)
        if answer.replica:
            _count(bounded(self.tally.replicas, answer.replica, Row), answer)
            self._entry("REPLICA", answer.replica).log(round(1000 * answer.first_token), 0)

    def failed(self, kind: str, first_turn: bool, error: RequestFailedError, seconds: float) -> None:
        """One request was not answered."""
        rows = self.tally.first_turns if first_turn else self.tally.later_turns
        bounded(rows, kind, Row).failures += 1
        self.tally.count_error(str(error))
        self._fire(_name(kind, first_turn), seconds, 0, error)

    def lagged(self, seconds: float) -> None:
        """A greenlet of the generator woke so much too late."""
        self.tally.lag.add(seconds)
        self._entry("LAG", "generator").log(round(1000 * seconds), 0)

    def take(self) -> Tally:
        """All since the last call, with the CPU time used meanwhile."""
        before, self._measured = self._measured, _clocks()
        used = (now - then for now, then in zip(self._measured, before, strict=True))
        self.tally.add_work(self._process, Work(*used))
        tally, self.tally = self.tally, Tally()
        return tally

    def _entry(self, measure: str, name: str) -> StatsEntry:
        return self._environment.stats.entries[name, measure]

    def _fire(self, name: str, seconds: float, size: int, error: Exception | None) -> None:
        facts: dict[str, Any] = {"request_type": "POST", "name": name, "response_length": size}
        self._environment.events.request.fire(
            **facts, response_time=1000 * seconds, exception=error, context={}
        )


def _clocks() -> tuple[float, float, float]:
    """Seconds so far: of CPU time, of waiting for a CPU (0 where the system does not say), of real time."""
    try:
        waited = int(SCHEDULER.read_text().split()[1]) / 1e9
    except OSError:
        waited = 0.0
    return time.process_time(), waited, time.perf_counter()


def _name(kind: str, first_turn: bool) -> str:
    return f"{kind} turn 1" if first_turn else f"{kind} turn 2+"


def _count(row: Row, answer: Reply) -> None:
    row.requests += 1
    row.output_tokens += answer.output_tokens
    row.prompt_tokens += answer.prompt_tokens
    if answer.cached_tokens is not None:
        row.known_prompt_tokens += answer.prompt_tokens
        row.cached_tokens += answer.cached_tokens
    row.latency.add(answer.latency)
    if answer.ttft is not None:
        row.ttft.add(answer.ttft)
    if (time_per_token := answer.time_per_output_token) is not None:
        row.time_per_output_token.add(time_per_token)
