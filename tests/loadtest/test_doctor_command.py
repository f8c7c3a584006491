"""``warmroute doctor`` with the real tokenizer, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from doctor_examinations import kinds_in
from doctor_logs import CLEAN, PLANTED, interleaved, planted

from cluster.serve.model_files import default_cache_directory, ensure_demo_model
from loadtest.doctor.examine import Question, examine
from loadtest.doctor.prompts import Prompts

pytestmark = pytest.mark.integration


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command and its output."""
    command = [sys.executable, "-m", "cluster.cli", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    """The packaged model's tokenizer."""
    return Prompts(ensure_demo_model(default_cache_directory(), print), 16, stand_in=True)


def test_a_log_is_examined_from_the_command_line(tmp_path):
    """The report goes to a file, and says what was planted."""
    log, report = tmp_path / "log.jsonl", tmp_path / "report.json"
    log.write_bytes(b"\n".join(interleaved(planted(1, "time", conversations=6), 1)))
    done = run(str(log), "--format", "json", "--output", str(report))
    assert done.returncode == 0, done.stderr
    document = json.loads(report.read_text())
    assert [finding["kind"] for finding in document["findings"]] == ["time"]
    assert document["sizing"]["need"]["bytes_per_token"] == 23_040


def test_an_empty_log_is_a_clear_error(tmp_path):
    """Exit code 1 and one sentence; a wrong option is 2."""
    log = tmp_path / "log.jsonl"
    log.touch()
    done = run(str(log))
    assert done.returncode == 1
    assert "is empty" in " ".join(done.stderr.split())
    assert run(str(log), "--format", "pdf").returncode == 2


@pytest.mark.parametrize("seed", range(3))
def test_with_real_tokens_all_defects_are_found_and_clean_logs_are_clean(
    seed: int, prompts: Prompts, tmp_path: Path
):
    """Over seeds, with and without the conversations' names in the log."""
    logs = {kind: (write(seed), set()) for kind, write in CLEAN.items()}
    logs["all"] = (planted(seed, *PLANTED, conversations=10), set(PLANTED))
    for name, (log, expected) in logs.items():
        path = tmp_path / "log.jsonl"
        path.write_bytes(b"\n".join(interleaved(log, seed, named=bool(seed % 2))))
        diagnosis = examine(Question(str(path), tmp_path, stand_in=True), prompts=prompts)
        assert kinds_in(diagnosis) == expected, name
