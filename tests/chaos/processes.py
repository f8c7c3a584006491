"""One real process at a time: started as a user would, killed, stopped and continued by its id."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.bound_child import bound_command

ROOT = Path(__file__).parents[2]
STOP_SECONDS = 10.0


class Process:
    """A process that can be started again and again; all its output goes into one file of its name."""

    def __init__(self, name: str, command: Sequence[str], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.starts = 0
        self._command = command
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

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
            self._process = subprocess.Popen(
                bound_command(self._command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
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


def python_module(module: str, *arguments: str) -> list[str]:
    """``python -m module …`` with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
