"""``warmroute replay``: what it asks for, what it chooses, what it writes, and how it says what is wrong."""

import io
import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cluster.cli import app, main
from cluster.errors import ClusterError, StartUpError
from cluster.settings import load_settings
from loadtest.replay.command import fitting_table, measure_all, replay
from loadtest.replay.describe import introduction
from loadtest.replay.figures import tabulate
from loadtest.replay.pool import start_workers
from loadtest.replay.run import tasks_of
from loadtest.replay.settings import ReplaySettings
from loadtest.replay.survey import CHOSEN_SHARES, WorkloadSource, survey
from loadtest.simulator.plan import ChangeKind, Plan
from loadtest.simulator.profiles import EngineProfile
from policies.catalog import POLICIES
from tests.loadtest.replays import experiment, run

REQUESTS = 61
PROMPT_TOKENS = 1024
ANSWER_TOKENS = 10
PROFILE = EngineProfile(
    step_seconds=0.02, prefill_seconds=0.001, decode_seconds=0.01, max_batched_tokens=1000
)


@pytest.fixture
def trace(tmp_path):
    """A request each second; the first half of every prompt is the same text."""
    path = tmp_path / "mine.jsonl"
    line = {"input_length": PROMPT_TOKENS, "output_length": ANSWER_TOKENS}
    lines = [line | {"timestamp": 1000 * n, "hash_ids": [0, 1 + n]} for n in range(REQUESTS)]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def settings_of(trace, **values):
    """Settings of a small replay in this process."""
    return load_settings(ReplaySettings, trace=trace, **{"policies": "warm,round-robin", "jobs": 1} | values)


def survey_of(trace, loads=(), **plan):
    """What is known of the trace before it is played."""
    return survey(WorkloadSource(trace), Plan(**{"profile": PROFILE, "replicas": 2} | plan), loads, seed=0)


def run_replay(settings):
    """What a user reads on standard output."""
    console = Console(file=io.StringIO(), width=100)
    replay(settings, "warmroute replay", console, Console(file=io.StringIO()))
    return " ".join(console.file.getvalue().split())


def error_of(arguments, capsys):
    """What a user reads when the command is refused, after its exit code was checked."""
    with pytest.raises(SystemExit) as ended:
        main(["replay", *map(str, arguments)])
    error = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2
    assert "Traceback" not in error
    return error


def test_help():
    """The command explains itself."""
    result = CliRunner().invoke(app, ["replay", "--help"])
    assert result.exit_code == 0
    assert "--length-scale" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either --trace FILE, or --workload and one of chat, "),
        (["--workload", "chat", "--trace", "x"], "give either"),
        (["--workload", "chatt"], "choose one of chat, "),
        (["--workload", "chat", "--policies", "warm,coin"], "unknown policy coin, choose from all, warm, "),
        (["--workload", "chat", "--policies", ","], "no policy is named"),
        (["--workload", "chat", "--profile", "abacus"], "choose one of sim"),
        (["--workload", "chat", "--load", "1,fast"], "WARMROUTE_LOAD"),
        (["--workload", "chat", "--load", "0"], "WARMROUTE_LOAD"),
        (["--workload", "chat", "--slow", "3"], "expected NUMBER:FACTOR pairs"),
        (["--workload", "chat", "--slow", "8:2"], "--slow 8: replicas are numbered from 0 to 7"),
        (["--workload", "chat", "--first", "5"], "--first: only for a --trace"),
        (["--trace", "x", "--first", "5", "--last", "5"], "--last 5 leaves nothing"),
        (["--workload", "chat", "--no-changes", "--join-at", "5"], "--no-changes leaves no --join-at"),
    ],
)
def test_bad_options_are_refused_with_what_would_be_good(arguments, said, capsys, tmp_path, monkeypatch):
    """Before anything is read or written."""
    monkeypatch.chdir(tmp_path)
    assert said in error_of(arguments, capsys)
    assert not list(tmp_path.iterdir())


def test_bad_files_are_named_with_the_line(capsys, tmp_path):
    """A file that is not there, and one whose second line is wrong."""
    output = ("--output", tmp_path / "out", "--jobs", 1)
    missing = tmp_path / "missing.jsonl"
    assert f"cannot read {missing}: No such file" in error_of(["--trace", missing, *output], capsys)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"timestamp": 0, "input_length": 9, "output_length": 1, "hash_ids": []}\n{}\n')
    assert f"{bad}, line 2: " in error_of(["--trace", bad, *output], capsys)


def test_missing_packages_are_named(capsys, monkeypatch):
    """Whoever has only the router's packages is told what to install, before any run."""
    for module in [name for name in sys.modules if name.startswith(("loadtest.replay.", "loadtest.charts."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert (
        "replay needs matplotlib, which the extra loadtest brings: install warmroute[loadtest]"
        in error_of([], capsys)
    )


def test_a_request_larger_than_a_cache_is_refused(trace):
    """With the number of blocks that would hold it; one block less is refused, this number is not."""
    needed = -(-(PROMPT_TOKENS + ANSWER_TOKENS) // 16)
    with pytest.raises(StartUpError, match=rf"61 of 61 requests .* --blocks {needed} would"):
        survey_of(trace, profile=EngineProfile(num_blocks=needed - 1))
    assert survey_of(trace, profile=EngineProfile(num_blocks=needed)).largest_blocks == needed


def test_work_is_that_of_one_pooled_cache(trace):
    """The common half is computed once and then found; steps are full; a request comes each second."""
    found = survey_of(trace, loads=(1.0, 3.0))
    computed = PROMPT_TOKENS / 2 + PROMPT_TOKENS / 2 / REQUESTS
    assert found.bound_hit_rate == pytest.approx(1 - computed / PROMPT_TOKENS)
    work = computed * (0.001 + 0.02 / 1000) + ANSWER_TOKENS * 0.01
    assert found.num_replicas_of_work == pytest.approx(work)
    assert found.shares == pytest.approx([found.num_replicas_of_work / 2 * load for load in (1, 3)])


def test_slow_replicas_can_do_less(trace):
    """One replica of half speed leaves three quarters of two replicas."""
    full, slow = survey_of(trace, (1.0,)), survey_of(trace, (1.0,), slow={0: 2.0})
    assert slow.shares[0] == pytest.approx(full.shares[0] / 0.75)


def test_loads_are_chosen_from_light_to_near_saturation(trace):
    """At each of them the fleet has about as much to do as is wanted."""
    assert survey_of(trace).shares == pytest.approx(CHOSEN_SHARES, rel=0.02)


def test_narrow_terminals_get_fewer_columns_and_no_broken_ones():
    """What decides stays; the report has the rest."""
    rows = tabulate(experiment(run("warm"), run("vllm-router-cache-aware"), bound_hit_rate=0.5))
    shown = {}
    for width in (80, 120):
        console = Console(file=io.StringIO(), width=width)
        console.print(fitting_table(rows, console))
        shown[width] = console.file.getvalue()
    assert "…" not in shown[80] + shown[120]
    assert "sation" in shown[120]
    assert "sation" not in shown[80]
    assert all(kept in shown[80] for kept in ("mean ms", "p99 ms", "rate"))


def test_one_request_has_no_rate(tmp_path):
    """It is played as it is, and nothing is said of replicas that it needs."""
    path = tmp_path / "one.jsonl"
    path.write_text('{"timestamp": 5, "input_length": 9, "output_length": 1, "hash_ids": []}\n')
    found = survey_of(path)
    assert found.loads == (1.0,)
    assert "no rate" in "".join(introduction(settings_of(path, changes=False), found))


def test_all_policies_are_every_policy_there_is(trace):
    """By one word; a name given twice counts once; those compared by default exist."""
    assert set(settings_of(trace, policies=None).policies) < POLICIES.keys()
    assert settings_of(trace, policies="all").policies == tuple(POLICIES)
    assert settings_of(trace, policies="warm, dynamo,warm").policies == ("warm", "dynamo")


def test_changes_come_when_the_user_says(trace):
    """Otherwise after one and two thirds of the requests, at the middle load; never after the last."""
    settings, found = settings_of(trace), survey_of(trace, (1.0, 2.0, 4.0))
    by_default = {task.plan.changes: task.load for task in tasks_of(settings, found) if task.plan.changes}
    ((join, death),) = by_default
    assert (join.kind, death.kind) == (ChangeKind.JOIN, ChangeKind.DEATH)
    assert (join.at, death.at) == (10.0, 20.0)
    assert set(by_default.values()) == {2.0}
    (death,) = max(task.plan.changes for task in tasks_of(settings_of(trace, death_at=7), found))
    assert (death.kind, death.at) == (ChangeKind.DEATH, 7.0)
    with pytest.raises(StartUpError, match=r"--join-at 31: the last request is sent after 30 s"):
        tasks_of(settings_of(trace, join_at=31), found)


def test_everything_asked_for_is_measured(trace):
    """Every policy at every load with every seed, in this order; caches of other sizes; changes."""
    said = io.StringIO()
    asked = settings_of(trace, load="2,1", seeds=2, capacity=True, blocks=150, replicas=3)
    found = measure_all(asked, "", Console(file=said), Console(file=io.StringIO()))
    runs = [(run.seed, run.load, run.policy) for run in found.runs]
    policies = ("warm", "round-robin")
    assert runs == [(seed, load, policy) for seed in (0, 1) for load in (1.0, 2.0) for policy in policies]
    assert {len(run.answers) for run in (*found.runs, *found.changes)} == {REQUESTS}
    sizes = sorted(point.blocks_per_replica for point in found.capacity if point.policy == "warm")
    assert sizes == [75, 75, 150, 150, 300, 300, 600, 600]  # a quarter of 150 would not hold a request
    assert found.change_times == {"join": 20.0, "death": 40.0}
    assert {len(run.replicas) for run in found.changes} == {4}
    assert found.bound_hit_rate == pytest.approx(0.5 * (REQUESTS - 1) / REQUESTS)
    assert "24 runs, 1 at a time." in said.getvalue()


@pytest.mark.integration
def test_a_replay_from_beginning_to_end(trace, tmp_path):
    """The best is named, the report is written where it is said, and the number of jobs changes no figure."""
    results = []
    for jobs in (1, 2):
        output = tmp_path / str(jobs)
        said = run_replay(settings_of(trace, load="1,2", seeds=2, jobs=jobs, output=output))
        assert f"Report: {output / 'report.html'}" in said
        assert "warm is" in said
        assert "No request failed." in said
        assert (output / "report.html").exists()
        results.append((output / "results.json").read_text())
    assert results[0] == results[1]


def halve(number):
    """Work for another process."""
    if number == 13:
        raise StartUpError("thirteen")
    if number == 14:
        psutil.Process().kill()
    return number / 2


@pytest.mark.integration
def test_processes_give_results_in_order_and_errors_as_they_are():
    """Whichever is ready first; what was raised there is raised here; a killed process is said."""
    done = []
    with start_workers(2) as workers:
        assert workers.map(halve, [(n,) for n in range(9)], lambda: done.append(1)) == [
            n / 2 for n in range(9)
        ]
        assert len(done) == 9
    with pytest.raises(StartUpError, match="thirteen"), start_workers(2) as workers:
        workers.map(halve, [(13,), (1,)])
    with pytest.raises(ClusterError, match="killed"), start_workers(2) as workers:
        workers.map(halve, [(14,), (1,)])


@pytest.mark.integration
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_replay_that_is_ended_leaves_no_process(how, tmp_path):
    """Ctrl-C (to the whole terminal) ends it within seconds and without tracebacks; so does being killed."""
    arguments = ["replay", "--workload", "chat", "--jobs", "2", "--output", str(tmp_path)]
    started = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert started.stdout is not None
    while "runs" not in started.stdout.readline():
        assert started.poll() is None
    deadline = time.monotonic() + 20
    while len(family := psutil.Process(started.pid).children(recursive=True)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)  # in the middle of their work
    for process in family if how is signal.SIGINT else []:
        process.send_signal(how)
    started.send_signal(how)
    _, error = started.communicate(timeout=20)
    assert "Traceback" not in error
    assert not psutil.wait_procs(family, timeout=10)[1]
