"""Large tables take memory page by page."""

import subprocess
import sys

import pytest

FLAGS_OF_A_LARGE_ARRAY = """
import cluster
import numpy as np

array = np.zeros(1 << 23, dtype=np.uint64)
middle, here = array.ctypes.data + array.nbytes // 2, False
for line in open("/proc/self/smaps"):
    first = line.split()[0]
    if "-" in first and not first.endswith(":"):
        start, end = (int(part, 16) for part in first.split("-"))
        here = start <= middle < end
    elif here and first == "VmFlags:":
        print(line)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how memory is mapped")
def test_large_arrays_are_no_huge_pages():
    """The kernel is not asked for them: finding one may take longer than a request should wait."""
    flags = subprocess.run(
        [sys.executable, "-c", FLAGS_OF_A_LARGE_ARRAY], capture_output=True, text=True, check=True
    ).stdout.split()
    assert flags[0] == "VmFlags:"
    assert "hg" not in flags
