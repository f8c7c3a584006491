"""Processes of our own commands, forked from one that has imported them: a start costs 4 s of CPU otherwise.

That process starts at the first use, and ends when this one does, with all its children. What a process gets
to see is what a fresh one would: command line, environment, files, folder, session, exit code. Whatever needs
more (a preloaded library, gevent, Ray) starts afresh.
"""

import atexit
import gc
import json
import os
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from cluster.process.bound_child import bind_to_parent, bound_command

ROOT = Path(__file__).resolve().parents[1]
COPIED = {
    "cluster.cli": {"agent", "check", "router"},
    "workers.sim.engine": None,
}
"""Modules, and which of their commands."""
MAX_REQUEST = 1024 * 1024
NUMBER = struct.Struct("i")


class Copy:
    """A child of the copied process, with what tests use of `subprocess.Popen`."""

    def __init__(self, args: Sequence[str], pid: int, status: int) -> None:
        self.args = args
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._lock = Lock()

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises `subprocess.TimeoutExpired`."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, seconds: float | None) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
                said = os.read(self._status, NUMBER.size)
                self.returncode = NUMBER.unpack(said)[0] if said else -signal.SIGKILL
                os.close(self._status)
            return self.returncode


Process = subprocess.Popen[bytes] | Copy


def start_process(
    command: Sequence[str], directory: Path, output: int, *, afresh: bool = False, **environment: str
) -> Process:
    """Start a command in a session of its own; it is killed when this process ends."""
    whole = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    python, option, module, *arguments = [*command, "", "", ""]
    commands = COPIED.get(module, ())
    copied = [python, option] == [sys.executable, "-m"] and (commands is None or arguments[0] in commands)
    if afresh or not copied or "LD_PRELOAD" in whole:
        return subprocess.Popen(
            bound_command(command, signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=whole,
            start_new_session=True,
        )
    request = {"command": command[2:], "directory": str(directory), "environment": whole}
    own, status = os.pipe()
    socket.send_fds(_copied_process(), [json.dumps(request).encode()], [output, status])
    os.close(status)
    said = os.read(own, NUMBER.size)
    if not said:
        raise RuntimeError("the process that others are copied from has ended")
    return Copy(command, NUMBER.unpack(said)[0], own)


@cache
def _copied_process() -> socket.socket:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = [sys.executable, "-m", "tests.process_copies", str(its.fileno())]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment,
            pass_fds=[its.fileno()], start_new_session=True,
        )  # fmt: skip

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(control: socket.socket) -> tuple[dict[str, Any], int]:
    """Fork for each request; returns in the child, with the request and the descriptor of its output."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is None:
                message, descriptors, *_ = socket.recv_fds(control, MAX_REQUEST, 2)
                if not message:
                    os._exit(0)  # which kills all children
                output, status = descriptors
                child = os.fork()
                if not child:
                    return json.loads(message), output
                os.close(output)
                os.write(status, NUMBER.pack(child))
                selector.register(os.pidfd_open(child), selectors.EVENT_READ, (child, status))
            else:
                child, status = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                selector.unregister(key.fd)
                os.close(key.fd)
                with suppress(BrokenPipeError):
                    os.write(status, NUMBER.pack(code))
                os.close(status)


def _become(output: int, directory: str, environment: Mapping[str, str]) -> None:
    """Make of a copy what a fresh process would be."""
    os.setsid()
    for number in (1, 2):
        os.dup2(output, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=bool(environment.get("PYTHONUNBUFFERED")))


def _import_everything() -> None:
    import uvloop  # noqa: F401

    from cluster import cli  # noqa: F401
    from cluster.operate import check  # noqa: F401
    from cluster.prompts.tokenizer import forgo_torch

    forgo_torch()
    from transformers import AutoTokenizer  # noqa: F401

    from router import server  # noqa: F401
    from workers.agent import main as _agent  # noqa: F401
    from workers.sim import engine  # noqa: F401

    gc.collect()
    gc.freeze()


def main() -> None:
    """Be copied."""
    _import_everything()
    parent = os.getpid()
    request, output = _serve(socket.socket(fileno=int(sys.argv[1])))
    if not bind_to_parent(signal.SIGKILL, parent):
        os._exit(1)
    _become(output, request["directory"], request["environment"])
    module, *arguments = request["command"]
    sys.modules.pop(module, None)  # or running it is warned of
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
