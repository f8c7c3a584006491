"""Forests of documents, random workloads, programs in a closed loop, and the study of rules on them."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from loadtest.simulator.plan import Plan
from loadtest.simulator.system import simulate
from loadtest.studies.random_workloads import measure, play, ratios, read, report
from loadtest.workloads import mixture
from loadtest.workloads.draws import Lengths
from loadtest.workloads.forest import Forest
from loadtest.workloads.mixture import DRAWS, random_case
from loadtest.workloads.programs import PEOPLE, Programs
from policies.catalog import POLICIES

FEW = Programs(programs=6, at_once=2, turns=Lengths(3, 0.3, 2, 5))


def first_keys(workload):
    """The first block of every request, in order of their start."""
    return [session.turns[0].keys[0] for session in workload.sessions]


def test_prompts_of_a_forest_have_nothing_in_common():
    """Unless there are roots, which all documents after them share."""
    assert len(set(first_keys(Forest(seconds=5).build(1)))) > 20
    rooted = Forest(seconds=5, roots=Lengths(64, 0, 64, 64), num_roots=2).build(1)
    assert len(set(first_keys(rooted))) == 2


def test_paths_through_a_document_share_what_stands_before_their_parting():
    """Of one document there are several ways on, at several depths."""
    workload = Forest(seconds=5, documents=1, drift_seconds=0.0, width=2, depth=4).build(1)
    depths = set()
    for before, after in pairwise(workload.sessions):
        keys, others = before.turns[0].keys, after.turns[0].keys
        depths.add(next(n for n, (a, b) in enumerate(zip(keys, others, strict=False)) if a != b))
    assert len(depths) > 3
    assert 0 not in depths


def test_documents_of_a_drifting_forest_come_and_go():
    """What is wanted at the end was not there at the beginning."""
    keys = first_keys(Forest(seconds=40, documents=20, drift_seconds=0.5).build(1))
    quarter = len(keys) // 4
    assert not set(keys[:quarter]) & set(keys[-quarter:])


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_makes_a_workload(name, monkeypatch):
    """The same one every time, of a random generator with random parameters, on a random fleet."""
    monkeypatch.setattr(mixture, "DRAWS", {name: DRAWS[name]})
    monkeypatch.setattr(mixture, "NUM_PARTS", (1,))
    monkeypatch.setattr(mixture, "MOST_REQUESTS", 0)
    monkeypatch.setattr(mixture, "HALVINGS", 0)
    case = random_case(3, requests=20)
    assert case == random_case(3, requests=20)
    assert case.parts == (name,)
    assert 20 <= case.workload.num_turns < 60
    assert case.workload.name == f"random-{case.seed}"


def test_programs_are_played_so_many_at_a_time():
    """The next one starts when one has ended, and all are played."""
    run = simulate(FEW.build(1), "least-load", POLICIES["least-load"], Plan(replicas=2))
    assert len(run.answers) == FEW.build(1).num_turns
    times = {}
    for answer in run.answers:
        start, end = times.get(answer.conversation_key, (answer.arrival, answer.end))
        times[answer.conversation_key] = min(start, answer.arrival), max(end, answer.end)
    assert len(times) == 6
    for start, _ in times.values():
        assert sum(other <= start < end for other, end in times.values()) <= 2


def test_an_agent_goes_on_when_its_sub_agents_have_ended():
    """They start with the answer to one of its turns, and delay the next one."""
    workload = replace(FEW, programs=1, sub_agent_share=1.0).build(1)
    agent = workload.programs[0]
    assert all(turn.sub_agents for turn in agent.turns)
    run = simulate(workload, "least-load", POLICIES["least-load"], Plan(replicas=2))
    assert len(run.answers) == workload.num_turns
    turns = [answer for answer in run.answers if answer.conversation_key == agent.turns[0].conversation_key]
    for turn, before, after in zip(agent.turns, turns, turns[1:], strict=False):
        sub_agent = turn.sub_agents[0].turns[0].conversation_key
        ends = [answer.end for answer in run.answers if answer.conversation_key == sub_agent]
        assert before.end <= max(ends) <= after.arrival


def test_rollouts_try_each_task_equally_often():
    """So many programs begin with the same task."""
    workload = replace(FEW, tasks=3).build(1)
    begins = Counter(program.turns[0].prompt_tokens for program in workload.programs)
    assert sorted(begins.values()) == [2, 2, 2]


def test_people_come_beside_agents():
    """At their own rate, with half a minute between turns."""
    workload = replace(FEW, people_per_second=1.0, people_seconds=30.0).build(1)
    assert 15 < len(workload.sessions) < 50
    assert {turn.tenant for session in workload.sessions for turn in session.turns} == {PEOPLE}


def test_a_study_is_resumed_and_compares_with_the_best_other_rule(tmp_path, monkeypatch):
    """Ratios are over the best of the other rules that have played the same case."""
    monkeypatch.setattr(mixture, "MOST_REQUESTS", 0)
    monkeypatch.setattr(mixture, "HALVINGS", 0)
    case = random_case(1, requests=30)
    file = tmp_path / "results.jsonl"
    file.write_text("".join(play(case, rule, rule, 1.0) for rule in ("warm", "preble", "llm-d")))
    results = read(file)
    own = measure(simulate(case.workload, "warm", POLICIES["warm"], case.plan, 1.0))
    assert results[1, 1.0, "warm"] == own
    best = min(results[1, 1.0, rule]["mean"] for rule in ("preble", "llm-d"))
    found = ratios(results, "warm", ["warm", "preble", "llm-d"], "mean")
    assert found == {(1, 1.0, "warm"): own["mean"] / best}
    assert not ratios(results, "warm", ["warm", "preble", "lmetric"], "mean")
    assert len(list(report(results, ["warm", "preble", "llm-d"]))) == 4
