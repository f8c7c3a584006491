"""One real process at a time: started as a user would, killed, stopped and continued by its id."""

import asyncio
import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from tests import process_copies

STOP_SECONDS = 10.0
PIPE_BYTES = 1024 * 1024


class Process:
    """A process that can be started again and again; all its output goes into one file of its name, where it
    is ``piped`` by way of a pipe that is read here.
    """

    afresh = True
    """Whether every start imports everything anew, as a user's does."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, piped: bool = False) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.starts = 0
        self._command = command
        self._directory = directory
        self._process: process_copies.Process | None = None
        self._pipe = OutputPipe(self.log) if piped else None

    @property
    def pid(self) -> int:
        """Process id; 0 while there is none."""
        return self._process.pid if self._process else 0

    @property
    def exit_code(self) -> int | None:
        """How it ended by itself; None while it runs, or when it was killed from here."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start it. It dies with this process, whatever happens to this one."""
        self.starts += 1
        with self.log.open("ab") as log:
            log.write(f"--- start {self.starts} at {time.strftime('%H:%M:%S')}\n".encode())
            log.flush()
            output = log.fileno() if self._pipe is None else self._pipe.write_end
            self._process = process_copies.start_process(
                self._command, self._directory, output, afresh=self.afresh, PYTHONUNBUFFERED="1"
            )

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """``kill -STOP``."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """``kill -CONT``."""
        self._signal(signal.SIGCONT)

    def end(self) -> int | None:
        """Ask it to end; its exit code, None when it had to be killed or was not running."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None

    @contextlib.asynccontextmanager
    async def unwritable_log(self) -> AsyncIterator[None]:
        """Nobody reads the pipe that it writes to; where that is a file, it may not grow."""
        if self._pipe is not None:
            with self._pipe.unread():
                yield
            return
        self._limit_files(0)
        try:
            yield
        finally:
            self._limit_files(resource.RLIM_INFINITY)

    def _limit_files(self, size: int) -> None:
        if self._process is None:
            return  # killed: the next one begins without a limit
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def close(self) -> None:
        """Take what it has written last, when it has ended for good."""
        if self._pipe is not None:
            self._pipe.close()

    def mark(self) -> int:
        """Where its log ends now."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_since(self, mark: int) -> str:
        """What it has written since `mark`."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(mark)
            return log.read().decode(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


class OutputPipe:
    """A pipe whose contents are added to a file by the running event loop."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._read_on()

    @contextlib.contextmanager
    def unread(self) -> Iterator[None]:
        """As long as the context is open, nobody reads, and the pipe is full from the beginning."""
        asyncio.get_running_loop().remove_reader(self._read_end)
        own = os.open(f"/proc/self/fd/{self.write_end}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            for size in (select.PIPE_BUF, 1):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(own, b"\n" * size)
            yield
        finally:
            os.close(own)
            self._read_on()

    def _read_on(self) -> None:
        asyncio.get_running_loop().add_reader(self._read_end, self._copy)

    def _copy(self) -> None:
        with self._file.open("ab") as file:
            file.write(os.read(self._read_end, PIPE_BYTES))

    def close(self) -> None:
        """End both ends; nobody may be at them any more."""
        asyncio.get_running_loop().remove_reader(self._read_end)
        with contextlib.suppress(BlockingIOError):
            self._copy()
        os.close(self._read_end)
        os.close(self.write_end)


def python_module(module: str, *arguments: str) -> list[str]:
    """``python -m module …`` with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
