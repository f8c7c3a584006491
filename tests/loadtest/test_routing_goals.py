"""The figures of the goals' table that are not those of a replay."""

from dataclasses import replace

from loadtest.replay.survey import WorkloadSource
from loadtest.simulator.plan import Change, ChangeKind, Plan
from loadtest.simulator.results import Answer, Run
from loadtest.studies.routing_goals import ABLATION, CONTENDERS, MODULES, SWEEP, cases_of, moved, settled
from policies.catalog import POLICIES

ANSWER = Answer(
    arrival=0.0, first_token=0.1, end=0.2, replica="a", reason="warm", prompt_tokens=10, expected_tokens=0,
    hit_tokens=0, available_tokens=0, conversation_key=1, tenant=0, router=0, attempts=1, failed=False,
)  # fmt: skip


def run_of(*answers):
    """A run with these answers and nothing else."""
    return Run("warm", "w", 1.0, 0, answers, {}, 1.0)


def test_moved_counts_conversations_with_several_turns_that_were_on_two_replicas():
    """One of two conversations moved; one with a single turn is in neither number."""
    answers = [
        ANSWER, replace(ANSWER, replica="b"), replace(ANSWER, conversation_key=2),
        replace(ANSWER, conversation_key=2), replace(ANSWER, conversation_key=3),
    ]  # fmt: skip
    assert moved(run_of(*answers)) == 0.5


def test_settled_is_the_end_of_the_last_window_that_is_slower_than_before():
    """Nine seconds after the change requests are still ten times as slow; then they are not."""
    answers = [
        replace(ANSWER, arrival=second / 10, first_token=second / 10 + (1.0 if 300 <= second < 390 else 0.1))
        for second in range(1000)
    ]
    plan = Plan(changes=(Change(ChangeKind.DEATH, 30.0),))
    assert settled(run_of(*answers), plan) == 10.0
    assert settled(run_of(*answers), Plan()) == 0.0


def test_all_that_the_tables_name_exists():
    """Constants that are replaced are constants of some module, and every table has lines."""
    constants = {name for values in ABLATION.values() for name in values} | set(SWEEP)
    assert all(any(hasattr(module, name) for module in MODULES) for name in constants)
    assert set(CONTENDERS) <= POLICIES.keys()
    for table in ("trace", "goodput", "workloads", "routers", "lag", "ablation", "sweep"):
        cases = cases_of(table, WorkloadSource("chat"))
        assert len({case.label for case in cases}) == len(cases) > 0
