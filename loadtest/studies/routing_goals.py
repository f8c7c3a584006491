"""How good routing decisions are, in figures: the table of goals, its ablation and its sweeps.

    python -m loadtest.studies.routing_goals --trace TRACE.jsonl trace routers
    ablation

Every case plays the same requests in virtual time with several seeds; figures are medians over the seeds. The
trace's lengths are divided by 8, as where the goals were set. The second half of its requests is
played unless ``--first`` and ``--last`` say otherwise: the first half was for tuning.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import cluster.fleet.booking
import cluster.fleet.branches
import policies.warm
from loadtest.replay.pool import Workers, start_workers
from loadtest.replay.run import Task, play
from loadtest.replay.survey import WorkloadSource
from loadtest.simulator.plan import Change, ChangeKind, Plan
from loadtest.simulator.results import Run
from loadtest.workloads.bounds import pooled_hit_rate
from policies.catalog import DEFAULT_POLICY, POLICIES

console = Console(highlight=False, width=120)

LOADS = (10.0, 17.14, 20.0, 21.8)
"""Times the trace's own speed: the whole trace's hour in 360, 210, 180 and 165 seconds."""
BUSY = 17.14
OVERLOAD = 23.5
CONTENDERS = (
    "least-load", "least-work", "lmetric", "preble", "llm-d", "llm-d-weighted", "aibrix-prefix-cache",
    "vllm-router-cache-aware",
)  # fmt: skip
"""Other policies that are best in some figure of the trace, or near it."""
GENERATED = ("hot-prefix", "no-sharing", "bursts", "tenants", "chat", "agents", "rag")
GOODPUT_LOADS = tuple(float(load) for load in range(15, 27))
LAGS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SETTLED_SECONDS = 5.0
"""Windows in which the time to the first token is looked at after a change."""

Constants = Mapping[str, object]
"""Constants of the default policy and of what it stands on, by name, and what they are in a run."""
MODULES = (policies.warm, cluster.fleet.branches, cluster.fleet.booking, cluster.fleet.booking.Booking)
NEVER = 1e18


def _no_progress(_: cluster.fleet.booking.Booking) -> bool:
    return False


NO_PROGRESS: Constants = {"progress": _no_progress}
"""A prompt queues in full until its first token, as in routers that do not follow engines' events for it."""
ABLATION: Mapping[str, Constants] = {
    "as it is": {},
    "stickiness off": {"STICKINESS": 0.0},
    "nothing counts as popular": {"POPULAR_SHARE": NEVER},
    "nothing is soon popular": {"DOUBT": NEVER},
    "no waiting in the router": {"ROOM_TOKENS": NEVER},
    "no ageing of what waits": {"AGEING_TOKENS": 0.0},
    "queues do not shrink": NO_PROGRESS,
    "no ties by the ring": {"TIE_TOKENS": 0.0, "STAY_TOKENS": -NEVER},
}
SWEEP: Mapping[str, Sequence[float]] = {
    "STICKINESS": (1, 2, 4, 6, 8, 12, 16, 32),
    "POPULAR_SHARE": (0.125, 0.25, 0.5, 1),
    "RECENT": (16, 32, 64, 128),
    "DOUBT": (0, 1, 2, 3),
    "ROOM_TOKENS": (2048, 4096, 6144, 8192),
    "TIE_TOKENS": (16, 64, 128, 256, 512),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run. Times in seconds."""

    mean: float
    p99: float
    hit_rate: float
    imbalance: float
    failures: float
    moved: float
    """Share of conversations with several turns that changed their replica at least once."""
    settled: float
    """Seconds from the last change of the fleet until p99 is back under 1.2x of before; 0 without one."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of a table: the same run with several seeds."""

    label: str
    task: Task
    constants: Constants = field(default_factory=dict)


def measure(task: Task, constants: Constants) -> Figures:
    """Play one run."""
    with replaced(constants):
        run = play(task)
    times = run.ttft()
    return Figures(
        mean=float(times.mean()),
        p99=float(np.percentile(times, 99)),
        hit_rate=run.hit_rate,
        imbalance=run.imbalance,
        failures=run.failures,
        moved=moved(run),
        settled=settled(run, task.plan),
    )


@contextmanager
def replaced(constants: Constants) -> Iterator[None]:
    """Constants have other values in this process, until the context ends."""
    patches = [patch.object(_module_with(name), name, value) for name, value in constants.items()]
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        yield


def _module_with(name: str) -> object:
    return next(module for module in MODULES if hasattr(module, name))


def moved(run: Run) -> float:
    """Share of conversations with several turns that were not all on one replica."""
    replicas: dict[int, list[str]] = {}
    for answer in sorted(run.answers, key=lambda answer: answer.arrival):
        replicas.setdefault(answer.conversation_key, []).append(answer.replica)
    several = [names for names in replicas.values() if len(names) > 1]
    return sum(len(set(names)) > 1 for names in several) / max(len(several), 1)


def settled(run: Run, plan: Plan) -> float:
    """Seconds from the last change until no window is much slower than before it; 0 without a change."""
    if not plan.changes:
        return 0.0
    first, last = plan.changes[0].at, plan.changes[-1].at
    times = np.array([(a.arrival, a.first_token - a.arrival) for a in run.answers])
    before = np.percentile(times[times[:, 0] < first, 1], 99)
    windows = np.arange(last, times[:, 0].max() - SETTLED_SECONDS, SETTLED_SECONDS)
    bad = [start for start in windows if _high(times, start) > 1.2 * before]
    return float(bad[-1] + SETTLED_SECONDS - last) if bad else 0.0


def _high(times: NDArray[np.float64], start: float) -> float:
    within = (times[:, 0] >= start) & (times[:, 0] < start + SETTLED_SECONDS)
    return float(np.percentile(times[within, 1], 99)) if within.sum() else 0.0


def cases_of(table: str, trace: WorkloadSource) -> list[Case]:
    """All lines of one table, before they are multiplied by seeds."""
    normal = Plan()

    def case(label: str, policy: str = DEFAULT_POLICY, load: float = BUSY, plan: Plan = normal) -> Case:
        return Case(label, Task(trace, policy, plan, load, 0))

    if table == "trace":
        return [case(f"load {load:g}, {policy}", policy, load) for load in LOADS for policy in POLICIES]
    if table == "uninformed":
        return [
            replace(case(f"load {load:g}, {policy}", policy, load), constants=NO_PROGRESS)
            for load in LOADS
            for policy in CONTENDERS
        ]
    if table == "goodput":
        policies_compared = (DEFAULT_POLICY, *CONTENDERS)
        return [
            case(f"load {load:g}, {policy}", policy, load)
            for policy in policies_compared
            for load in GOODPUT_LOADS
        ]
    if table == "workloads":
        slow = [
            case(f"one replica at half speed, {policy}", policy, plan=Plan(slow={0: 2.0}))
            for policy in (DEFAULT_POLICY, *CONTENDERS)
        ]
        return slow + [
            Case(f"{name}, {policy}", Task(WorkloadSource(name), policy, normal, 1.0, 0))
            for name in GENERATED
            for policy in (DEFAULT_POLICY, *CONTENDERS)
        ]
    if table == "routers":
        return [
            case(f"load {load:g}, {routers} routers", load=load, plan=Plan(routers=routers))
            for load in LOADS[:3]
            for routers in (1, 2, 8)
        ]
    if table == "lag":
        return [case(f"events {1000 * lag:g} ms late", plan=Plan(event_lag_seconds=lag)) for lag in LAGS]
    if table == "changes":
        span = trace.build(0).sessions[-1].start / BUSY
        return [
            case("no change"),
            case("a replica joins", plan=Plan(changes=(Change(ChangeKind.JOIN, span / 3),))),
            case("a replica dies", plan=Plan(changes=(Change(ChangeKind.DEATH, span / 3),))),
        ]
    if table == "ablation":
        runs = [(label, constants) for label, constants in ABLATION.items()]
    else:
        runs = [(f"{name} {value:g}", {name: value}) for name, values in SWEEP.items() for value in values]
    return [
        Case(f"{what}: {label}", Task(source, DEFAULT_POLICY, normal, load, 0), constants)
        for what, source, load in (
            *((f"load {load:g}", trace, load) for load in (LOADS[0], LOADS[2], OVERLOAD)),
            ("agents", WorkloadSource("agents"), 1.0),
            ("rollout", WorkloadSource("rollout"), 1.0),
            ("rag", WorkloadSource("rag"), 1.0),
        )
        for label, constants in runs
    ]


def print_table(workers: Workers, table: str, trace: WorkloadSource, seeds: int) -> None:
    """Play all runs of one table and print their medians."""
    cases = cases_of(table, trace)
    runs = [(replace(case.task, seed=seed), case.constants) for case in cases for seed in range(seeds)]
    figures = workers.map(measure, runs)
    console.print(f"\n{table}, median of {seeds} seeds")
    console.print(
        f"{'':44} {'mean ms':>8} {'p99 ms':>8} {'hit':>6} {'balance':>7} {'failed':>6} "
        f"{'moved':>6} {'settled':>7}"
    )
    for number, case in enumerate(cases):
        of_case = figures[number * seeds : (number + 1) * seeds]
        mean, p99, hit, balance, failed, moved, settled = (
            median(getattr(one, name) for one in of_case) for name in Figures.__dataclass_fields__
        )
        console.print(
            f"{case.label:44} {1000 * mean:8.1f} {1000 * p99:8.0f} {hit:6.4f} {balance:7.2f} {failed:6.0f} "
            f"{moved:6.3f} {settled:7.1f}",
        )


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = ("trace", "goodput", "workloads", "routers", "lag", "changes", "ablation", "sweep", "uninformed")
    parser.add_argument("tables", nargs="*", choices=tables, default=["trace"])
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--first", type=int, default=3000, help="first request of the trace that is played")
    parser.add_argument("--last", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    given = parser.parse_args()
    trace = WorkloadSource(given.trace, length_scale=1 / 8, first=given.first, last=given.last)
    bounds = [pooled_hit_rate(trace.build(seed), 8 * 6_000) for seed in range(given.seeds)]
    console.print(
        f"requests {given.first} to {given.last}; one pooled cache of the same size: {median(bounds):.4f}"
    )
    with start_workers(given.jobs) as workers:
        for table in given.tables:
            print_table(workers, table, trace, given.seeds)


if __name__ == "__main__":
    main()
