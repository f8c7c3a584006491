"""Processes whose output nobody takes for a while."""

import asyncio
import sys

import pytest

from tests.chaos.processes import Process
from tests.waiting import eventually

WRITER = """
import sys, time
while True:
    try:
        sys.stdout.write("line\\n" * 100)
        sys.stdout.flush()
    except OSError:
        pass
    time.sleep(0.001)
"""


@pytest.mark.parametrize("piped", [False, True])
async def test_a_log_grows_no_further_while_it_cannot_be_written(tmp_path, piped):
    """Neither a file nor what comes by way of a pipe; then it goes on."""
    process = Process("writer", [sys.executable, "-S", "-c", WRITER], tmp_path, piped)
    process.start()
    try:
        await eventually(lambda: "line" in process.log_since(0))
        async with process.unwritable_log():
            await asyncio.sleep(0.02)
            size = process.mark()
            await asyncio.sleep(0.05)
            assert process.mark() == size
        await eventually(lambda: "line" in process.log_since(size))
        process.kill()
        async with process.unwritable_log():
            process.start()
        await eventually(lambda: "start 2" in process.log_since(size))
    finally:
        process.kill()
        process.close()
