"""Keeps one engine process running: starts it, waits until it is healthy, restarts it when it dies, stops it.

Below this process stands a guardian (`workers.engines.guardian`), bound to this process's life, and below
that the engine: so whichever of the three is killed, nothing of the engine is left behind.
"""

import asyncio
import contextlib
import io
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from cluster.process.bound_child import bound_command
from workers.concurrency import growing_pauses
from workers.engines.engine import EngineClient
from workers.engines.guardian import guardian_command
from workers.errors import EngineProtocolError, EngineStartError, EngineUnavailableError
from workers.settings import WorkerSettings

TAIL_LINES = 40
LONGEST_LINE = 64 * 1024
LONGEST_PAUSE = 60.0
PROBE_SECONDS = 0.2
PROGRESS_SECONDS = 2.0
OUTPUT_SECONDS = 1.0
"""How long the rest of the output may take once the processes are gone."""
KILL_SLACK_SECONDS = 10.0
"""What the guardian may take beyond its time of grace, to kill and collect what is left."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """How to start an engine."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set on top of this process's environment."""
    url: str = ""
    """The URL at which it will answer."""


class EngineProcess:
    """One supervised engine.

    `start` it, then let `keep_running` run as long as it is wanted, then `stop` it. ``report`` hears about
    progress in words; ``on_end`` hears, at once, that an incarnation has ended. Output goes into
    ``log_file``, which is put aside (as ``.1``) when it has become too large.
    """

    def __init__(
        self,
        command: EngineCommand,
        settings: WorkerSettings,
        log_file: Path,
        report: Callable[[str], None] = lambda text: None,
        on_end: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.restarts = 0
        self._command = command
        self._settings = settings
        self._log_file = log_file
        self._report = report
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[None] | None = None
        self._group = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def pid(self) -> int:
        """Process id of the guardian; 0 when there is none."""
        return self._process.pid if self._process else 0

    @property
    def tail(self) -> str:
        """The last lines of output."""
        return "\n".join(self._tail)

    async def start(self) -> None:
        """Start the engine and wait until it is healthy.

        Raises `EngineStartError` when it dies first or takes too long; nothing of it is left then.
        """
        await self._spawn()
        try:
            await self._wait_until_healthy()
        except BaseException:
            await self.stop()
            raise

    async def keep_running(self) -> None:
        """Restart the engine whenever it dies, until cancelled.

        Raises `EngineStartError` when it has died `restart_limit` times in a row without being healthy for
        long.
        """
        pauses = growing_pauses(self._settings.restart_pause_seconds, LONGEST_PAUSE)
        failures = 0
        while True:
            healthy_since = time.monotonic()
            reason = await self._wait_until_ended()
            if time.monotonic() - healthy_since > self._settings.restart_reset_seconds:
                pauses, failures = growing_pauses(self._settings.restart_pause_seconds, LONGEST_PAUSE), 0
            while True:
                failures += 1
                if failures > self._settings.restart_limit:
                    raise EngineStartError(f"given up after {failures - 1} restarts: {reason}\n{self.tail}")
                await asyncio.sleep(next(pauses))
                self.restarts += 1
                log.warning("engine_restarted", url=self._command.url, reason=reason, restarts=self.restarts)
                try:
                    await self.start()
                    break
                except EngineStartError as error:
                    reason = str(error)

    async def stop(self) -> None:
        """Stop the engine and all its processes; returns when they are gone. Harmless when repeated."""
        process, output = self._process, self._output
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._settings.stop_seconds + KILL_SLACK_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if (process.returncode or 0) < 0:
            _kill_group(self._group)  # the guardian was killed, and could not do it
        if output is not None:
            # Whoever still holds the pipe must not hold us.
            await asyncio.wait({output}, timeout=OUTPUT_SECONDS)
            output.cancel()
        self._process = self._output = None

    async def _spawn(self) -> None:
        self._tail.clear()
        guarded = guardian_command(self._command.arguments, self._settings.stop_seconds)
        # A pipe of our own: asyncio's would make waiting for the process wait for everybody who holds it.
        read_end, write_end = os.pipe()
        self._output = asyncio.create_task(self._keep_output(read_end))
        try:
            self._process = await asyncio.create_subprocess_exec(
                *bound_command(guarded),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=asyncio.subprocess.STDOUT,
                env=os.environ | dict(self._command.environment),
                start_new_session=True,
            )
        finally:
            os.close(write_end)

    async def _wait_until_healthy(self) -> None:
        started = time.monotonic()
        next_report = started
        async with EngineClient(self._command.url, "", self._settings.engine_timeout_seconds) as client:
            while not await _is_healthy(client):
                elapsed = time.monotonic() - started
                if self._process is None or self._process.returncode is not None:
                    raise EngineStartError(f"the engine ended while it started{self._exit()}\n{self.tail}")
                if elapsed > self._settings.start_seconds:
                    raise EngineStartError(f"the engine was not healthy after {elapsed:.0f} s\n{self.tail}")
                if time.monotonic() >= next_report:
                    self._report(
                        f"engine at {self._command.url} starts: {elapsed:.0f} s, {self._last_line()}"
                    )
                    next_report += PROGRESS_SECONDS
                await asyncio.sleep(PROBE_SECONDS)
        self._group = _engine_of(self.pid)
        self._report(f"engine at {self._command.url} is healthy after {time.monotonic() - started:.0f} s")

    async def _wait_until_ended(self) -> str:
        assert self._process is not None, "start it first"
        await self._process.wait()
        reason = f"the engine's process ended{self._exit()}"
        self._on_end(reason)
        await self.stop()
        return reason

    def _exit(self) -> str:
        code = self._process.returncode if self._process else None
        return "" if code is None else f" (exit {code})"

    def _last_line(self) -> str:
        return self._tail[-1][:120] if self._tail else "no output yet"

    async def _keep_output(self, read_end: int) -> None:
        """Copy the output into the log file, line by line, until the last writer is gone."""
        reader = asyncio.StreamReader(limit=LONGEST_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
        )
        log_file = _BoundedFile(self._log_file, int(self._settings.engine_log_megabytes * 1_000_000))
        try:
            while line := await _read_line(reader):
                log_file.write(line)
                self._tail.append(line.decode(errors="replace").rstrip())
        finally:
            log_file.close()
            transport.close()


class _BoundedFile:
    """A log file that is put aside when it has become too large; one older file is kept.

    Lines that cannot be written are lost: an engine whose output nobody reads any more would come to a halt.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._file: io.FileIO | None = None
        self._failing = False

    def write(self, line: bytes) -> None:
        try:
            self._room_for(len(line)).write(line)
            self._failing = False
        except OSError as error:
            if not self._failing:
                log.warning("engine_log_failed", path=str(self._path), reason=str(error))
            self._failing = True

    def _room_for(self, length: int) -> io.FileIO:
        if self._file is not None and self._file.tell() + length > self._limit:
            self.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        return self._file

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    """The next line; a part of it when it is longer than any line should be; empty at the end."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(max(error.consumed, 1))


def _engine_of(guardian: int) -> int:
    """Process id, and so process group, of the engine under a guardian; 0 when it cannot be told."""
    try:
        children = Path(f"/proc/{guardian}/task/{guardian}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(group, signal.SIGKILL)


async def _is_healthy(client: EngineClient) -> bool:
    try:
        await client.check_health()
    except (EngineUnavailableError, EngineProtocolError):
        return False
    return True
