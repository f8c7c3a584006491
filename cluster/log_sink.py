"""Where log lines go: a descriptor that may be full, broken or unread, and must never hold up the process.

A line that cannot be written at once is dropped and counted. When writing works again, the first line says
how many are missing. A line of which a part was written is finished before the next one.
"""

import fcntl
import math
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

PIPE_BYTES = select.PIPE_BUF
"""What a pipe that has room takes without waiting."""
PIPE_BUFFER = 1024 * 1024
"""Bytes that wait for a reader who is late, where the system allows so many."""

Write = Callable[[bytes], int]
"""Writes a part of some bytes without waiting and says how many. Raises `OSError` when it can write none."""


class LogSink:
    """Writes lines to one descriptor. Never raises and never waits; any thread may use it.

    ``notice`` makes the line that says how many lines are missing.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], str]) -> None:
        self._write = never_waiting(descriptor)
        self._notice = notice
        # Reentrant: what the garbage collector ends in the middle of a line may have something to say, too.
        self._lock = threading.RLock()
        self._rest = b""
        """What is missing of the last line."""
        self._num_reported = 0
        self.num_dropped = 0
        """Lines that were lost."""
        self.dropped_at = -math.inf
        """When the last one was lost, in monotonic seconds."""

    def write(self, line: str) -> None:
        """Write one line."""
        with self._lock:
            if self._flush() and self._report() and self._take(line):
                return
            self.num_dropped += 1
            self.dropped_at = time.monotonic()

    def _report(self) -> bool:
        missing = self.num_dropped - self._num_reported
        if missing and not self._take(self._notice(missing)):
            return False
        self._num_reported += missing
        return True

    def _take(self, line: str) -> bool:
        """False when nothing of it can be written."""
        self._rest = whole = line.encode(errors="backslashreplace") + b"\n"
        if not self._flush() and len(self._rest) == len(whole):
            self._rest = b""
            return False
        return True

    def _flush(self) -> bool:
        """False when some of the last line could not be written."""
        try:
            while self._rest:
                self._rest = self._rest[self._write(self._rest) :]
        except OSError:  # a full disk, a reader that is gone or does not read
            return False
        return True


def never_waiting(descriptor: int) -> Write:
    """A way to write to a descriptor that never waits for a reader.

    It must not become non-blocking itself: that would hold for everybody who has it, the user's shell
    included. A pipe or terminal is therefore opened once more. Where that is not possible it is asked for
    room first; somebody else who writes to it could then take that room in between.
    """
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return partial(os.write, descriptor)
    if stat.S_ISSOCK(kind):
        own = socket.socket(fileno=os.dup(descriptor))
        return lambda data: own.send(data, socket.MSG_DONTWAIT)
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        own_end = os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return partial(_write_if_room, descriptor)
    if stat.S_ISFIFO(kind):
        with suppress(OSError):  # it stays as large as it was
            fcntl.fcntl(own_end, fcntl.F_SETPIPE_SZ, PIPE_BUFFER)
    return partial(os.write, own_end)


def _write_if_room(descriptor: int, data: bytes) -> int:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(descriptor, data[:PIPE_BYTES])
