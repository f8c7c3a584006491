"""Runs a command and leaves nothing of it behind, however either of the two ends.

    python guardian.py --grace SECONDS -- COMMAND [ARGUMENT …]

An engine is several processes, and they do not look after each other: when vLLM's API server is killed, its
EngineCore lives on and keeps the accelerator's memory. The guardian stands between supervisor and engine.
It starts the command in a session of its own, adopts whatever that leaves orphaned, and when the command
has ended it kills the rest. On SIGTERM or SIGINT it asks the command to end, and kills everything after the
time of grace. The command gets SIGTERM when the guardian itself is killed.

Standard library only, and quick to start. Exits as the command did: 128 + n when signal n ended it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
USAGE = 2
NOT_STARTED = 127
KILL_SECONDS = 5.0
STEP_SECONDS = 0.02


def guardian_command(command: Sequence[str], grace: float) -> list[str]:
    """The command line that runs ``command`` under a guardian."""
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), "--grace", str(grace), "--", *command]


def guard(command: Sequence[str], grace: float) -> int:
    """Run the command; returns its exit code when it and everything it started are gone."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    deadline = float("inf")
    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_guardian)
    except OSError as error:
        sys.stderr.write(f"guardian: cannot run {command[0]}: {error.strerror}\n")
        return NOT_STARTED

    def stop(_number: int, _frame: object) -> None:
        nonlocal deadline
        deadline = min(deadline, time.monotonic() + grace)
        child.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while (code := child.poll()) is None and time.monotonic() < deadline:
        _reap_orphans(child.pid)
        time.sleep(STEP_SECONDS)
    _kill_everything(child.pid)
    code = child.wait() if code is None else code
    return code if code >= 0 else 128 - code


def _die_with_guardian() -> None:
    _prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _reap_orphans(child: int) -> None:
    """Collect adopted processes that have ended; the command itself is left to its own `poll`."""
    for pid in _children():
        if pid != child:
            _wait(pid)


def _kill_everything(group: int) -> None:
    """Kill the command's process group and all adopted processes, until nothing is left."""
    deadline = time.monotonic() + KILL_SECONDS
    _kill(-group)
    while (pids := _children()) and time.monotonic() < deadline:
        for pid in pids:
            _kill(pid)
            if pid != group:
                _wait(pid)
        if pids == [group]:
            return
        time.sleep(STEP_SECONDS)


def _children() -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _wait(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    if len(arguments) < 4 or arguments[0] != "--grace" or arguments[2] != "--":
        sys.stderr.write(f"{__doc__}")
        return USAGE
    return guard(arguments[3:], float(arguments[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
