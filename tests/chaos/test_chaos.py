"""A short run of chaos, started as a user would; ``python -m tests.chaos`` is the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

SEED = 1
MINUTES = 1.25
CONVERGE_SECONDS = 4.0
"""Twice what is required: what else runs on the machine is no failure of this system."""


@pytest.mark.chaos
@pytest.mark.integration
@pytest.mark.timeout(480)
def test_everything_agrees_after_every_fault(tmp_path):
    """Agents, Redis and routers agree soon after each fault, no request hangs or fails that need not, and
    nothing stays booked.
    """
    command = [sys.executable, "-m", "tests.chaos", "--quiet", "--copies", "--directory", str(tmp_path)]
    options = ["--seed", str(SEED), "--minutes", str(MINUTES), "--converge-seconds", str(CONVERGE_SECONDS)]
    outcome = subprocess.run(
        [*command, *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=450,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
