"""Rules that say which programs are kept in KV memory, and the study that compares them."""

from dataclasses import replace

import numpy as np
import pytest

from loadtest.simulator.ledgers import FixedLifetime, Oracle, ThunderAgent
from loadtest.simulator.plan import Plan
from loadtest.simulator.system import simulate
from loadtest.simulator.workload import Session, Workload
from loadtest.studies.programs import CASES, RULES, measure
from loadtest.workloads.draws import Lengths
from loadtest.workloads.programs import Programs
from policies.catalog import POLICIES

WORKLOAD = Programs(
    programs=6,
    at_once=4,
    turns=Lengths(4, 0.3, 2, 6),
    sub_agent_share=0.2,
    people_per_second=0.2,
    people_seconds=30.0,
).build(1)
PLAN = Plan(replicas=1, profile=replace(Plan().profile, num_blocks=1_000))
"""Room for a few of them only."""
KEYS = np.arange(0, 320, 16, dtype=np.uint64)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_answers_every_request(rule):
    """Where memory is short, with sub-agents and people; the run checks that nothing is left behind."""
    policy, plan = RULES[rule]
    run = simulate(WORKLOAD, policy, POLICIES[policy], replace(PLAN, ledger=plan.ledger))
    assert len(run.answers) == WORKLOAD.num_turns
    assert not run.failures
    figures = measure(run)
    assert figures.longest >= figures.ttft > 0
    assert figures.program < figures.done


def test_waiting_for_room_finds_more_in_the_caches():
    """Than sending every turn at once."""
    workload = Programs(programs=24, at_once=14, turns=Lengths(8, 0.2, 6, 10)).build(1)
    plan = replace(PLAN, profile=replace(PLAN.profile, num_blocks=2_500))
    hit_rates = {
        policy: simulate(workload, policy, POLICIES[policy], plan).hit_rate for policy in ("warm", "programs")
    }
    assert hit_rates["programs"] > hit_rates["warm"] + 0.1


def test_the_oracle_knows_when_a_program_comes_back():
    """Soon, late, or not at all."""
    turns = [
        replace(WORKLOAD.programs[0].turns[0], think_seconds=seconds, conversation_key=7)
        for seconds in (0.0, 0.5, 50.0)
    ]
    oracle = Oracle(Workload("hand-made", 16, (Session(0.0, tuple(turns)),)))
    known = []
    for number in range(3):
        known.append(oracle.comes_back_soon(7, KEYS))
        oracle.begin(7, 0, KEYS, 320, 100.0 * number)
        oracle.end(7, 1.0, 10_000, 100.0 * number + 1)
        assert oracle.is_kept(7) is known[-1]
    assert known == [True, False, False]


def test_a_fixed_lifetime_keeps_everybody_for_as_long():
    """Ten seconds after each turn."""
    ledger = FixedLifetime()
    ledger.begin(1, 0, KEYS, 320, 0.0)
    ledger.end(1, 1.0, 10_000, 1.0)
    ledger.expire(10.9)
    assert ledger.is_kept(1)
    ledger.expire(11.0)
    assert not ledger.is_kept(1)


def test_thunderagent_lets_the_smallest_go_first():
    """And nobody while all fit."""
    turn = WORKLOAD.programs[0].turns[0]
    sessions = tuple(Session(0.0, (replace(turn, conversation_key=key),) * 2) for key in (1, 2))
    for num_blocks, kept in ((10_000, [1, 2]), (400, [2])):
        ledger = ThunderAgent(Workload("hand-made", 16, sessions))
        for key, count in ((1, 10), (2, 20)):
            ledger.begin(key, 0, KEYS[:count] + np.uint64(16_000 * key), 16 * count, float(key))
        for key in (2, 1):
            ledger.end(key, 1.0, num_blocks, 9.0)
        assert [key for key in (1, 2) if ledger.is_kept(key)] == kept


def test_cases_are_of_agents_and_people():
    """Those without agents have people."""
    assert all(case.at_once or case.people_per_second for case in CASES.values())
