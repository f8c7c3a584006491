"""Several routers in as many processes behind one port: ``warmroute router --workers N``.

Each worker is a router of its own, which shares state with the others as routers on other machines do. The
supervisor routes nothing: it takes the port, starts the workers, replaces those that end, and stops them.

Each listens on a socket of its own (SO_REUSEPORT), and the kernel deals out connections by a hash of both
addresses. With one socket for all, what a worker has not accepted when it dies would not be reset. But
clients keep connections, and who wakes first takes all that come at once: of 16 to two workers all 16 were
seen to go to one. The supervisor holds the port without listening, having taken it alone: a second router on
it is refused. A worker listens when it knows the state of the fleet.

Workers are forked, from a process that has imported everything and has neither event loop nor threads of
Python: the libraries are in memory once, and no worker has to wait for them.
"""

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from ctypes import c_bool
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path

import structlog
import uvloop

from cluster.errors import StartUpError
from cluster.process.bound_child import bind_to_parent
from cluster.process.collector import calm_collector
from router.observe.snapshots import SnapshotFiles
from router.server import create_server, started
from router.settings import RouterSettings

READY_SECONDS = 5.0
"""How long a worker may take to learn the fleet's state before it takes requests without it."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
"""Seconds before a worker is started again: doubled each time that it has not served for long."""
STEADY_SECONDS = 60.0
"""A worker that has served for so long begins with the first pause again."""
WATCH_SECONDS = 0.05
"""How often the supervisor looks at its workers, and whether a signal has come."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ask the supervisor to end."""

FORK = multiprocessing.get_context("fork")

log = structlog.get_logger()


def run_workers(settings: RouterSettings, holder: socket.socket) -> int:
    """Run ``settings.workers`` routers on the port that a socket is bound to, until SIGINT or SIGTERM.

    Returns the exit code: 0 when all ended by themselves once asked, 1 when one did not. Raises
    `StartUpError` when a worker cannot start at all. For the main thread of a process without other threads.
    """
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # after it was bound: alone till here
    _import_everything()
    came: list[str] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(signal.Signals(number).name))
        for number in SIGNALS
    }
    try:
        with tempfile.TemporaryDirectory(prefix="warmroute-router-") as directory:
            return _Supervisor(settings, holder, Path(directory), came).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _import_everything() -> None:
    from transformers import AutoTokenizer

    assert AutoTokenizer is not None  # reading the name is what imports it
    calm_collector()  # a collection in a worker would write to, and so copy, every page that it shares


@dataclass(slots=True)
class _Worker:
    """One place for a worker, through all its restarts. Times are monotonic seconds."""

    number: int
    process: ForkProcess | None = None
    serves: c_bool = field(default_factory=c_bool)
    """Set by the process, in memory shared with it."""
    serves_since: float = 0.0
    """0 until it serves."""
    pause: float = FIRST_PAUSE
    """Before the next restart."""
    due: float = 0.0
    """When to start a process, while there is none."""


class _Supervisor:
    """Keeps the workers running."""

    def __init__(
        self, settings: RouterSettings, holder: socket.socket, directory: Path, came: list[str]
    ) -> None:
        self._settings = settings
        self._holder = holder
        self._directory = directory
        self._came = came
        """Names of signals that have come."""
        self._workers = [_Worker(number) for number in range(1, settings.workers + 1)]
        self._complete = False
        """Whether all workers have served at the same time."""

    def run(self) -> int:
        """Until a signal asks to stop."""
        try:
            while not self._came:
                for worker in self._workers:
                    self._look_after(worker)
                time.sleep(WATCH_SECONDS)
            log.info("router_stopped", signal=self._came[-1])
            return self._stop()
        except StartUpError:
            self._stop()
            raise
        finally:
            for process in self._processes():
                process.kill()

    def _look_after(self, worker: _Worker) -> None:
        now = time.monotonic()
        if worker.serves.value and not worker.serves_since:
            worker.serves_since = now
            if not self._complete and all(other.serves_since for other in self._workers):
                self._complete = True
                log.info("router_workers_started", workers=len(self._workers))
        if worker.process is None:
            if now >= worker.due:
                self._start(worker)
        elif worker.process.exitcode is not None:
            self._has_ended(worker, worker.process, now)

    def _start(self, worker: _Worker) -> None:
        worker.serves, worker.serves_since = FORK.RawValue(c_bool), 0.0
        worker.process = FORK.Process(
            target=_run_worker,
            args=(worker.number, self._settings, self._holder, self._directory, worker.serves, os.getpid()),
            name=f"router worker {worker.number}",
        )
        # Blocked meanwhile: what arrives before the worker has handlers of its own would be lost.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        worker.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _has_ended(self, worker: _Worker, process: ForkProcess, now: float) -> None:
        how = _describe(process.exitcode)
        if not self._complete and not worker.serves_since:
            raise StartUpError(f"worker {worker.number} of the router could not start ({how})")
        if worker.serves_since and now - worker.serves_since > STEADY_SECONDS:
            worker.pause = FIRST_PAUSE
        log.error(
            "router_worker_ended",
            worker=worker.number,
            process=process.pid,
            how=how,
            restart_in_seconds=worker.pause,
        )
        SnapshotFiles(self._directory, worker.number).drop_gauges()
        worker.process, worker.due = None, now + worker.pause
        worker.pause = min(worker.pause * 2, LONGEST_PAUSE)

    def _stop(self) -> int:
        """Ask all workers to end, and wait; a further signal or too long a wait kills them."""
        self._came.clear()
        asked = self._processes()
        for process in asked:
            process.terminate()
        deadline = time.monotonic() + self._settings.stop_seconds
        while (running := self._processes()) and time.monotonic() < deadline and not self._came:
            time.sleep(WATCH_SECONDS)
        for process in running:
            log.error("router_worker_killed", process=process.pid)
            process.kill()
            process.join()
        return int(any(process.exitcode for process in asked))

    def _processes(self) -> list[ForkProcess]:
        """Those that have not ended."""
        processes = [worker.process for worker in self._workers if worker.process is not None]
        return [process for process in processes if process.exitcode is None]


def _describe(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"


def _run_worker(
    number: int,
    settings: RouterSettings,
    holder: socket.socket,
    directory: Path,
    serves: c_bool,
    supervisor: int,
) -> None:
    """What a worker process does, from the fork to its end. Ctrl-C in a terminal is for the supervisor."""
    os.setpgid(0, 0)
    for other in (signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if not bind_to_parent(signal.SIGTERM, supervisor):
        return
    structlog.contextvars.bind_contextvars(worker=number)
    SnapshotFiles.shared = SnapshotFiles(directory, number)
    try:
        settings = settings.model_copy(update={"ready_seconds": READY_SECONDS})
        uvloop.run(_serve(settings, _socket_beside(holder), serves))
    finally:
        if os.getppid() != supervisor:  # it was killed, and nobody else would clean up
            shutil.rmtree(directory, ignore_errors=True)


def _socket_beside(holder: socket.socket) -> socket.socket:
    """One more socket on the same port."""
    beside = socket.socket(holder.family, socket.SOCK_STREAM)
    beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    beside.bind(holder.getsockname())
    return beside


async def _serve(settings: RouterSettings, listener: socket.socket, serves: c_bool) -> None:
    server = create_server(settings)
    serving = await started(server, listener)
    serves.value = server.started
    await serving
