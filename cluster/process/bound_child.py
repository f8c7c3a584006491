"""Run a command that cannot outlive the process that started it, not even after ``kill -9``.

    python -m cluster.process.bound_child SIGNAL PARENT COMMAND [ARGUMENT …]

Asks the kernel to signal this process when its parent dies (Linux ``PR_SET_PDEATHSIG``), makes sure the
parent, given by its process id, has not died meanwhile, and becomes the command: same process id, same files,
same environment.
Where the kernel has no such call the command simply runs.

The kernel means the **thread** that started the child: start it from one that lives as long as the child
should. Only the command itself is signalled; what it starts in turn is its own business.

Standard library only, and quick to start: it stands in front of every child.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
NOT_STARTED = 127
USAGE = 2


def bound_command(command: Sequence[str], death_signal: signal.Signals = signal.SIGTERM) -> list[str]:
    """The command line that runs ``command`` as a child of this process, bound to its life.

    Names this file by its path, so it works in any working directory and with any interpreter path.
    """
    shim = (sys.executable, "-I", "-S", os.path.abspath(__file__))
    return [*shim, death_signal.name, str(os.getpid()), *command]


def python_path() -> str:
    """The PYTHONPATH with which a child imports this package, installed or not."""
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))


def bind_to_parent(death_signal: signal.Signals, parent: int) -> bool:
    """Have this process signalled when its parent ends. False when ``parent`` is no longer its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    return os.getppid() == parent


def main(arguments: Sequence[str]) -> int:
    """Bind, then become the command. Returns only when that is impossible."""
    try:
        name, number, *command = arguments
        death_signal, parent = signal.Signals[name], int(number)
    except (KeyError, ValueError) as error:
        return _fail(USAGE, f"bad arguments: {error}\n\n{__doc__}")
    if not command:
        return _fail(USAGE, f"no command\n\n{__doc__}")
    if not bind_to_parent(death_signal, parent):
        return _fail(NOT_STARTED, f"process {parent}, which wanted {command[0]}, is gone")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        return _fail(NOT_STARTED, f"cannot run {command[0]}: {error.strerror}")


def _fail(code: int, message: str) -> int:
    sys.stderr.write(f"bound_child: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
