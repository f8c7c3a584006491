"""A bound child ends with its parent, however the parent ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cluster.process.bound_child import NOT_STARTED, USAGE, bound_command, main

PARENT = """
import subprocess, sys, time
from cluster.process.bound_child import bound_command
print(subprocess.Popen(bound_command(sys.argv[1:])).pid, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended; one that nobody has waited for has ended."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.integration
def test_the_child_ends_when_its_parent_is_killed():
    """Not even kill -9, after which no Python code runs, leaves it behind."""
    command = [sys.executable, "-c", PARENT, "sleep", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."}) as parent:
        child = int(parent.stdout.readline())
        deadline = time.monotonic() + 10
        while command_line(child) != "sleep 60" and time.monotonic() < deadline:
            time.sleep(0.01)
        became = command_line(child)
        parent.send_signal(signal.SIGKILL)
    assert became == "sleep 60", "the command has the process id of the child"
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(child)


def command_line(pid: int) -> str:
    """The program that the process runs now, with its arguments."""
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read().replace("\0", " ").strip()


def test_the_command_gets_its_arguments_input_and_environment(monkeypatch):
    """It is as if it had been started directly, with its own exit code."""
    monkeypatch.setenv("COLOUR", "green")
    script = 'read line; echo "$line $COLOUR $1"; exit 7'
    result = subprocess.run(
        bound_command(["sh", "-c", script, "sh", "--parent"]), input="in\n", capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (7, "in green --parent\n")


def test_a_parent_that_is_gone_gets_no_child(capfd):
    """It died between the start and the request to the kernel: nobody would ever end the command."""
    assert main(["SIGTERM", "1", "sleep", "60"]) == NOT_STARTED
    assert "process 1, which wanted sleep, is gone" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "bad arguments"),
        (["SIGTERM", "12"], "no command"),
        (["SIGNOTHING", "12", "true"], "bad arguments"),
        (["SIGTERM", "parent", "true"], "bad arguments"),
    ],
)
def test_wrong_usage_is_explained(arguments, message, capfd):
    """The error comes with the usage."""
    assert main(arguments) == USAGE
    error = capfd.readouterr().err
    assert message in error
    assert "PARENT COMMAND" in error


def test_a_command_that_does_not_exist_is_named():
    """The shim answers like a shell: 127."""
    result = subprocess.run(bound_command(["/no/such/program"]), capture_output=True, text=True)
    assert result.returncode == NOT_STARTED
    assert "cannot run /no/such/program: No such file" in result.stderr
