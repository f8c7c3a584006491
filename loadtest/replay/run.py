"""The runs of a replay: which there are, and what each does."""

from dataclasses import dataclass, replace

from cluster.errors import StartUpError
from loadtest.replay.settings import ReplaySettings
from loadtest.replay.survey import Survey, WorkloadSource, workload_of
from loadtest.simulator.plan import Change, ChangeKind, Plan
from loadtest.simulator.results import Run
from loadtest.simulator.system import simulate
from policies.catalog import POLICIES

CAPACITY_FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Sizes of the caches that are compared with those of the plan, as multiples of them."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run, small enough to be sent to another process."""

    source: WorkloadSource
    policy: str
    plan: Plan
    load: float
    seed: int


def play(task: Task) -> Run:
    """Simulate it. The seed decides what is drawn in the workload, and the router of each request."""
    workload = workload_of(task.source, task.seed)
    return simulate(workload, task.policy, POLICIES[task.policy], task.plan, task.load, task.seed)


def tasks_of(settings: ReplaySettings, survey: Survey) -> list[Task]:
    """All runs: every policy at every load, and at the middle load with what else is asked for.

    Runs of one seed are neighbours, since they play the same requests.
    """
    plan = settings.plan()
    played = [(plan, load) for load in survey.loads]
    if changes := changes_of(settings, survey):
        played.append((replace(plan, changes=changes), survey.middle_load))
    if settings.capacity:
        played += [
            (replace(plan, profile=replace(plan.profile, num_blocks=num_blocks)), survey.middle_load)
            for num_blocks in capacities(plan, survey)
        ]
    source = settings.source()
    return [
        Task(source, policy, plan, load, seed)
        for seed in range(settings.seeds)
        for plan, load in played
        for policy in settings.policies
    ]


def capacities(plan: Plan, survey: Survey) -> list[int]:
    """Blocks per replica that are compared with the plan's: those that hold the largest request."""
    sizes = [round(plan.profile.num_blocks * factor) for factor in CAPACITY_FACTORS]
    return [num_blocks for num_blocks in sizes if num_blocks >= survey.largest_blocks]


def changes_of(settings: ReplaySettings, survey: Survey) -> tuple[Change, ...]:
    """What happens to the fleet, in a run of its own: what the user says, or else a join and a death after
    one and two thirds of the requests.

    Raises `StartUpError` when it would happen after the last request.
    """
    if not settings.changes:
        return ()
    wanted = {ChangeKind.JOIN: settings.join_at, ChangeKind.DEATH: settings.death_at}
    if set(wanted.values()) == {None}:
        wanted = dict(zip(wanted, map(_readable, survey.middle_thirds), strict=True))
    changes = tuple(Change(kind, at) for kind, at in wanted.items() if at is not None)
    for change in changes:
        if change.at > survey.middle_seconds:
            raise StartUpError(
                f"--{change.kind}-at {change.at:g}: the last request is sent after "
                f"{survey.middle_seconds:.0f} s, at load {survey.middle_load:g}"
            )
    return changes


def _readable(seconds: float) -> float:
    return float(f"{seconds:.2g}")
