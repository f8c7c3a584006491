"""``warmroute loadtest`` with real processes: it compares, it reports, and it leaves nothing behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.process_copies import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SCENARIO = """
description = "a support bot in a hurry"

[arrivals]
conversations_per_second = 6.0
seconds = 4.0

[users.support]
system_prompts = { count = 1, tokens = 300 }
turns = 4
question = 150
answer = 6
think = { mean_seconds = 0.05 }
"""


def start(tmp_path, *options):
    """The command, with two engines that compute 4,000 prompt tokens a second each."""
    scenario = tmp_path / "hurry.toml"
    scenario.write_text(SCENARIO)
    command = [sys.executable, "-m", "cluster.cli", "loadtest", "--scenario", str(scenario)]
    command += ["--replicas", "2", "--prefill-rate", "4000", "--output", str(tmp_path / "report"), *options]
    return subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WARMROUTE_CACHE_DIR": str(ROOT / ".warmroute")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


async def test_ours_beats_round_robin(tmp_path):
    """Both arms hold the same conversations, and ours computes less; what is not shown is not claimed."""
    process = start(tmp_path, "--seconds", "2", "--rounds", "4", "--probes", "16")
    output, _ = await asyncio.to_thread(process.communicate, timeout=280)
    assert process.returncode == 0, output
    results = json.loads((tmp_path / "report/results.json").read_text())
    theirs, ours = results["figures"][:2]
    assert (theirs["arm"], ours["arm"]) == ("round-robin", "Warmroute")
    assert theirs["requests"] == ours["requests"] > 50
    assert theirs["failures"] == ours["failures"] == 0
    assert ours["hit_rate"] > theirs["hit_rate"]
    [hits] = [one for one in results["comparisons"] if one["figure"]["key"] == "hit_rate"]
    assert hits["outcome"] == ("better" if hits["conversations"] >= 40 else "too few")
    assert results["savings"][0]["tokens_per_request"]["estimate"] > 0
    assert results["idle_fleet"]["gain"]["low"] > 1
    assert results["idle_fleet"]["prefill"]["estimate"] == pytest.approx(1 / 4000, rel=0.25)
    assert "Report:" in output
    assert (tmp_path / "report/report.html").stat().st_size > 50_000


@pytest.mark.parametrize(("disaster", "code"), [("interrupt", 130), ("engines die", 1)])
async def test_no_process_is_left(tmp_path, disaster, code):
    """In the middle of a round, after Ctrl-C as well as when engines have died: all that was started is gone,
    and what happened is said in a line."""
    process = start(tmp_path, "--seconds", "60", "--rounds", "1", "--probes", "0")
    assert process.stdout is not None
    while "✔ Fleet" not in (line := await asyncio.to_thread(process.stdout.readline)):
        assert line, "it ended before the fleet was up"
    children = psutil.Process(process.pid).children(recursive=True)
    [engines] = [child for child in children if "workers.sim.engine" in child.cmdline()]
    assert len(children) >= 4
    await asyncio.sleep(3)
    if disaster == "interrupt":
        process.send_signal(signal.SIGINT)
    else:
        engines.kill()
    output, _ = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output
    # Engines may also be missed before a round begins, by whoever asks them something.
    said = (
        ("Stopped",)
        if disaster == "interrupt"
        else ("engines has ended with exit code -9", "does not answer")
    )
    assert any(one in output for one in said), output
    assert not [child for child in children if child.is_running()]
