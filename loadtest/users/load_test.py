"""One load test, from Locust's events to the summary."""

import itertools
import logging
import time
from pathlib import Path
from typing import Any, NoReturn

import gevent
import msgspec
from locust.env import Environment
from locust.event import Events
from locust.runners import MasterRunner, WorkerRunner

from loadtest.harness.chat_answers import RequestFailedError
from loadtest.harness.chat_apis import APIS
from loadtest.scenarios.scenario import Scenario
from loadtest.scenarios.script import Message, Screenwriter, ScriptedSession
from loadtest.users.client import ChatClient
from loadtest.users.options import OptionError, Options, options_from
from loadtest.users.recorder import Recorder
from loadtest.users.summary import LAG_LIMIT_SECONDS, as_json, as_text
from loadtest.users.tally import Tally, Times

LAG_EVERY_SECONDS = 0.01
WINDOW_SECONDS = 10.0
"""How often the lag is looked at, for a warning while the test runs."""
NUMBERS_PER_PROCESS = 1 << 32
"""So that no two processes hold the same conversation."""
STOP_SECONDS = 10.0
"""How much longer than ``--stop-timeout`` a worker may take to stop."""
FINISHED = "warmroute-finished"
STOP = "warmroute-stop"
REPORT = "warmroute-report"
"""Messages between Locust's workers and their master."""

log = logging.getLogger(__name__)


class LoadTest:
    """What all users of one process share. Lives as long as the process; each start begins anew."""

    def __init__(self, name: str, scenario: Scenario | None = None) -> None:
        self.name = name
        self.scenario = scenario
        self.options = Options()
        self.client = ChatClient("http://127.0.0.1")
        self.model = ""
        self.recorder: Recorder
        self._environment: Environment
        self._tally = Tally()
        """The figures of all processes, as far as they have reported."""
        self._writers: dict[str, Screenwriter] = {}
        self._numbers: dict[str, itertools.count[int]] = {}
        self._watch: gevent.Greenlet[..., Any] | None = None
        self._stopped: set[str] = set()
        """Workers that have sent their last report."""
        self._seconds = 0.0
        """How long the last test ran."""

    def listen(self, events: Events) -> None:
        """Follow Locust from its start to its end."""
        events.init.add_listener(self._on_init)
        events.test_start.add_listener(self._on_start)
        events.test_stopping.add_listener(self._on_stopping)
        events.test_stop.add_listener(self._on_stop)
        events.reset_stats.add_listener(self._on_reset)
        events.report_to_master.add_listener(self._on_report_to_master)
        events.worker_report.add_listener(self._on_worker_report)
        events.quit.add_listener(self._on_quit)

    def next_session(self, kind: str) -> ScriptedSession:
        """The next conversation of that kind: numbers 0, 1, 2, ... in the first process."""
        return self._writers[kind].session(next(self._numbers[kind]))

    def ask(
        self, kind: str, messages: list[Message], max_tokens: int, *, first_turn: bool, user: str = ""
    ) -> str | None:
        """Send one request and record what becomes of it. None if it failed."""
        started = time.perf_counter()
        try:
            answer = self.client.ask(self.model, messages, max_tokens, user)
        except RequestFailedError as error:
            self.recorder.failed(kind, first_turn, error, time.perf_counter() - started)
            return None
        self.recorder.answered(kind, first_turn, answer)
        return answer.text

    def finish(self) -> None:
        """End the test, wherever it runs: there is nothing left to send."""
        runner = self._environment.runner
        if runner is not None:
            runner.send_message(FINISHED)

    def _on_init(self, environment: Environment, **_: Any) -> None:
        # Imports take seconds while gevent's clock stands still: --run-time would be that much shorter.
        gevent.get_hub().loop.update_now()
        self._environment = environment
        self.recorder = Recorder(environment)
        runner = environment.runner
        if isinstance(runner, WorkerRunner):
            runner.register_message(STOP, self._on_stop_message, concurrent=True)
        elif runner is not None:
            runner.register_message(FINISHED, self._on_finished)
            runner.register_message(REPORT, self._on_last_report)

    def _on_start(self, environment: Environment, **_: Any) -> None:
        self._on_reset()
        if isinstance(environment.runner, MasterRunner):
            self.options = options_from(environment.parsed_options)
            return
        try:
            self._prepare(environment)
        except (OptionError, RequestFailedError) as error:
            log.error("cannot start: %s", error)
            environment.process_exit_code = 1
            if environment.runner is not None:
                gevent.spawn(environment.runner.quit)
            return
        self._watch = gevent.spawn(self._watch_lag)

    def _prepare(self, environment: Environment) -> None:
        self.options = options = options_from(environment.parsed_options)
        host = environment.host or ""
        if not host.startswith(("http://", "https://")):
            raise OptionError(f"--host {host}: expected a URL, such as http://127.0.0.1:8000")
        self.client.close()
        self.client = ChatClient(
            host,
            api_key=options.api_key,
            stream=options.stream,
            timeout_seconds=options.timeout,
            extra_body=options.body_fields(),
            api=APIS[options.api],
        )
        self.model = options.model or self.client.models()[0]
        if self.scenario is not None:
            first = max(getattr(environment.runner, "worker_index", 0), 0) * NUMBERS_PER_PROCESS
            self._writers = {kind: self.scenario.writer(kind, options.seed) for kind in self.scenario.kinds}
            self._numbers = {kind: itertools.count(first) for kind in self.scenario.kinds}

    def _watch_lag(self) -> NoReturn:
        window, warned = Times(), False
        while True:
            planned = time.perf_counter() + LAG_EVERY_SECONDS
            gevent.sleep(LAG_EVERY_SECONDS)
            lag = max(time.perf_counter() - planned, 0.0)
            self.recorder.lagged(lag)
            window.add(lag)
            if window.count * LAG_EVERY_SECONDS < WINDOW_SECONDS:
                continue
            late = window.percentile(99) or 0.0
            if late > LAG_LIMIT_SECONDS and not warned:
                warned = True
                log.warning("the generator is a bottleneck: it lags %.0f ms (p99)", 1000 * late)
            window = Times()

    def _on_stopping(self, environment: Environment, **_: Any) -> None:
        """Let workers end their conversations, and wait for their last reports.

        Locust's own master gives them half a second, whatever ``--stop-timeout`` says.
        """
        runner = environment.runner
        if not isinstance(runner, MasterRunner):
            return
        self._stopped.clear()
        runner.send_message(STOP)
        with gevent.Timeout(environment.stop_timeout + STOP_SECONDS, exception=False):
            while {client.id for client in runner.clients.running + runner.clients.spawning} - self._stopped:
                gevent.sleep(0.05)

    def _on_stop_message(self, environment: Environment, **_: Any) -> None:
        if environment.runner is not None:
            environment.runner.stop()

    def _on_stop(self, environment: Environment, **_: Any) -> None:
        self._seconds = time.time() - self.recorder.started
        if self._watch is not None:
            self._watch.kill()
            self._watch = None
        if isinstance(environment.runner, WorkerRunner):
            environment.runner.send_message(REPORT, {REPORT: self._report()})
            return
        if not isinstance(environment.runner, MasterRunner):
            self._tally.merge(self.recorder.take())
        if environment.web_ui is not None:
            self._summarise()

    def _on_quit(self, **_: Any) -> None:
        """Say what was measured, below Locust's own tables and with the workers' last reports."""
        runner = self._environment.runner
        if self._environment.web_ui is None and self._seconds and not isinstance(runner, WorkerRunner):
            self._summarise()

    def _summarise(self) -> None:
        facts = {
            "host": self._environment.host,
            "model": self.model or self.options.model or "the first",
            "scenario": self.name,
            "seed": self.options.seed,
            "seconds": round(self._seconds, 1),
        }
        print(f"\n{as_text(self._tally, facts)}\n", flush=True)  # noqa: T201 - as Locust prints its tables
        if self.options.json_summary:
            text = msgspec.json.format(msgspec.json.encode(as_json(self._tally, facts)))
            try:
                Path(self.options.json_summary).write_bytes(text)
            except OSError as error:
                log.error("--json-summary %s: %s", self.options.json_summary, error.strerror)

    def _on_reset(self, **_: Any) -> None:
        """Forget everything so far, as Locust does."""
        self._tally = Tally()
        self.recorder = Recorder(self._environment)

    def _report(self) -> bytes:
        """All since the last report."""
        return msgspec.json.encode(self.recorder.take())

    def _on_report_to_master(self, data: dict[str, Any], **_: Any) -> None:
        data[REPORT] = self._report()

    def _on_worker_report(self, data: dict[str, Any], **_: Any) -> None:
        self._tally.merge(msgspec.json.decode(data[REPORT], type=Tally))

    def _on_last_report(self, msg: Any, **_: Any) -> None:
        """A worker has stopped."""
        self._stopped.add(msg.node_id)
        self._on_worker_report(msg.data)

    def _on_finished(self, environment: Environment, msg: Any, **_: Any) -> None:
        del msg
        log.info("everything has been sent")
        runner = environment.runner
        if runner is not None:  # not from the greenlet of a user, which ends here
            gevent.spawn(runner.stop if environment.web_ui else runner.quit)
