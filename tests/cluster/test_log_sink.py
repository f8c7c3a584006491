"""The log never raises, never waits, and says what it has lost."""

import json
import os
import pty
import socket
import subprocess
import sys
import time

import pytest

from cluster.log import MAX_LINE, _Renderer
from cluster.log_sink import LogSink, never_waiting

BUSY = """
import sys, time, structlog
from cluster.log import configure_logging, num_lines_dropped
configure_logging("info")
log = structlog.get_logger()
began = time.monotonic()
for number in range(20_000):
    log.info("line", number=number, text="x" * 100)
print(round(time.monotonic() - began, 1), num_lines_dropped(), flush=True)
"""
EVERYBODY = """
import asyncio, gc, logging, sys, threading, warnings
from cluster.log import configure_logging
configure_logging("info", json=True)
class Bad:
    def __del__(self): raise ValueError("in del")
async def main():
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("x").warning("does not %d fit", "text")
    warnings.warn("old", stacklevel=1)
    Bad()
    asyncio.create_task(fail())
    await asyncio.sleep(0.01)
    gc.collect()
async def fail(): raise KeyError("nobody waits for me")
asyncio.run(main())
thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()
"""


def sink_to(write):
    """A sink with a scripted descriptor."""
    sink = LogSink(1, lambda count: f"{count} dropped")
    sink._write = write
    return sink


def test_lines_that_cannot_be_written_are_counted_and_then_reported():
    """A full disk, a reader that is gone: nothing is raised, and the first line afterwards says so."""
    written, full = [], [True]

    def write(data):
        if full:
            raise OSError(28, "No space left on device")
        written.append(data)
        return len(data)

    sink = sink_to(write)
    for _ in range(3):
        sink.write("lost")
    assert sink.num_dropped == 3
    assert time.monotonic() - sink.dropped_at < 5
    full.clear()
    sink.write("one")
    sink.write("two")
    assert b"".join(written) == b"3 dropped\none\ntwo\n"


def test_line_written_in_part_is_finished_before_the_next():
    """A disk that becomes full in the middle of a line must not garble the next one."""
    written, room = bytearray(), [4]

    def write(data):
        if not room[0]:
            raise BlockingIOError
        taken, room[0] = data[: room[0]], max(room[0] - len(data), 0)
        written.extend(taken)
        return len(taken)

    sink = sink_to(write)
    sink.write("abcdefgh")
    assert (bytes(written), sink.num_dropped) == (b"abcd", 0)
    sink.write("lost")
    room[0] = 100
    sink.write("next")
    assert bytes(written) == b"abcdefgh\n1 dropped\nnext\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a sink is never closed
@pytest.mark.parametrize("kind", ["pipe", "file", "socket", "terminal", "polled", "full", "broken"])
def test_every_kind_of_descriptor(kind, tmp_path, monkeypatch):
    """Lines arrive where somebody reads; where nobody does, none is waited for, and the descriptor itself
    stays as it was for others."""
    if kind in ("pipe", "polled", "broken"):
        reader, writer = os.pipe()
    elif kind == "file":
        writer = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
        reader = os.open(tmp_path / "log", os.O_RDONLY)
    elif kind == "socket":
        ends = socket.socketpair()
        reader, writer = (os.dup(end.fileno()) for end in ends)
        for end in ends:
            end.close()
    elif kind == "terminal":
        reader, writer = pty.openpty()
    else:
        reader, writer = os.open("/dev/null", os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
    if kind == "broken":
        os.close(reader)
        reader = os.open("/dev/null", os.O_RDONLY)
    with monkeypatch.context() as patched:
        if kind == "polled":
            patched.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError()))
        sink = LogSink(writer, lambda count: f"{count} dropped")
    sink.write("hello")
    if kind in ("full", "broken"):
        assert sink.num_dropped == 1
    else:
        assert os.read(reader, 100).strip() == b"hello"
        assert os.get_blocking(writer)
    if kind != "file":
        for _ in range(40):
            sink.write("y" * 50_000)
        assert sink.num_dropped > 0
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000_000,
        "\ud800",
        "\x00" * 20_000,
        ["long"] * 50_000,
        object(),
        type("Bad", (), {"__repr__": 1})(),
    ],
    ids=["long", "no Unicode", "escaped", "list", "object", "no repr"],
)
def test_line_is_bounded_and_one_line_whatever_is_logged(as_json, value):
    """Nothing that is logged can fail or fill the disk; what is JSON stays JSON."""
    line = _Renderer(as_json)(None, "info", {"event": "request", "error": value, "level": "info"})
    assert len(line) <= MAX_LINE
    line.encode(errors="backslashreplace")
    if as_json:
        assert "\n" not in line
        assert "request" in json.loads(line)["event"]


def test_end_of_a_long_traceback_is_kept():
    """The last lines name the error."""
    try:
        raise ValueError("x" * 100_000 + "the end")
    except ValueError as error:
        line = _Renderer(True)(None, "error", {"event": "failed", "exc_info": error})
    assert json.loads(line)["exception"].endswith("the end")


def test_unread_pipe_holds_nobody_up():
    """A process whose standard error nobody reads goes on at full speed and counts what it lost."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        seconds, dropped = process.stdout.readline().split()
        assert float(seconds) < 20
        assert int(dropped) > 1_000
    finally:
        process.kill()
        process.communicate()


def test_everything_goes_through_the_sink():
    """Uvicorn, asyncio, warnings, threads, finalisers: every line of standard error is one of ours."""
    done = subprocess.run([sys.executable, "-c", EVERYBODY], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    said = " ".join(str(line) for line in lines)
    for expected in (
        "Invalid HTTP request received.",
        "does not %d fit",
        "UserWarning: old",
        "in del",
        "nobody waits for me",
        "ZeroDivisionError",
    ):
        assert expected in said
    assert len(lines) == 6


def test_descriptor_that_is_closed_is_refused_at_once():
    """Whatever takes its number next must never be written to."""
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        never_waiting(writer)
