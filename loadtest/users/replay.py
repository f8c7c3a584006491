"""Recorded requests, sent when they were recorded, whatever the server does: an open loop. Only a session
whose rows have delays waits for its answers.

A trace holds no text, only numbers that stand for it: equal numbers become equal English.
"""

import time
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import ClassVar, cast

import gevent
from gevent.pool import Pool
from locust import User, task

from loadtest.scenarios.english import english
from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.users.client import MAX_OPEN
from loadtest.users.load_test import LoadTest
from loadtest.users.options import OptionError, Options
from loadtest.workloads.trace import read_trace
from loadtest.workloads.trace_rows import TimeUnit

KIND = "trace"
END_SECONDS = 60.0
KEPT_TEXTS = 4096
"""Texts of ids: the most recent ones, about 3 kB each."""


def read(options: Options) -> Workload:
    """The trace that the flags ask for. Raises `OptionError`."""
    try:
        workload = read_trace(
            Path(options.trace),
            block_size=round(options.tokens_per_id * options.length_scale),
            length_scale=options.length_scale,
            seed=options.seed,
            tokens_per_id=options.tokens_per_id,
            time_unit=cast(TimeUnit, options.time_unit),
        )
    except OSError as error:
        raise OptionError(f"--trace {options.trace}: {error.strerror}") from error
    except ValueError as error:
        raise OptionError(f"--trace: {error}") from error
    return workload.faster(options.speed)


class TraceUser(User):
    """Sends a whole trace, alone: a second user would send it twice, so there is one."""

    fixed_count = 1
    abstract = True
    load_test: ClassVar[LoadTest]
    workload: ClassVar[Workload]

    @task
    def replay(self) -> None:
        """Send all requests, wait for the last answer, and end the test."""
        pool = Pool(MAX_OPEN)
        begin = time.perf_counter()
        try:
            for number, session in enumerate(self.workload.sessions):
                gevent.sleep(max(begin + session.start - time.perf_counter(), 0.0))
                pool.wait_available()
                late = time.perf_counter() - begin - session.start
                self.load_test.recorder.tally.behind.add(max(late, 0.0))
                pool.spawn(self._send, session, number)
            pool.join()
        finally:
            pool.kill()
        self.load_test.finish()
        gevent.sleep(END_SECONDS)  # until Locust has ended the test

    def _send(self, session: Session, number: int) -> None:
        """All turns of a session; what follows on an answer that failed is not sent."""
        for index, turn in enumerate(session.turns):
            gevent.sleep(turn.think_seconds)
            content = prompt_of(turn, number, self.workload.block_size)
            messages = [{"role": "user", "content": content}]
            if self.load_test.ask(KIND, messages, turn.output_tokens, first_turn=index == 0) is None:
                return


def user_class(workload: Workload, load_test: LoadTest) -> type[TraceUser]:
    """The class that Locust runs."""
    return type("ReplayUser", (TraceUser,), {"workload": workload, "load_test": load_test})


def prompt_of(turn: Turn, number: int, block_size: int) -> str:
    """The text behind a request's ids. What follows the last whole one is the request's own."""
    num_full = turn.prompt_tokens // block_size
    parts = [_text(key, block_size) for key in turn.keys[:num_full]]
    if rest := turn.prompt_tokens - block_size * num_full:
        parts.append(english(rest, Random(number), "question"))
    return " ".join(parts)


@lru_cache(KEPT_TEXTS)
def _text(key: int, tokens: int) -> str:
    return english(tokens, Random(key))
