"""Agents, people and both, with the best rules per request and with those that look at whole programs.

    python -m loadtest.studies.programs --seeds 5

A closed loop of agents on two simulated engines of 96,000 tokens each (`loadtest.workloads.programs`): about
20 fit at once. Throughput is measured to the moment at which nine in ten requests have been answered: the end
belongs to the few longest agents.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from rich.console import Console

from loadtest.simulator.ledgers import FixedLifetime, Oracle, ThunderAgent
from loadtest.simulator.plan import Plan
from loadtest.simulator.results import Answer, Run
from loadtest.simulator.system import simulate
from loadtest.workloads.programs import PEOPLE, Programs
from policies.catalog import POLICIES

PLAN = Plan(replicas=2)
UNLIMITED = replace(PLAN, profile=replace(PLAN.profile, num_blocks=500_000))
AGENTS = Programs(programs=160)
CASES: Mapping[str, Programs] = {
    "agents, 20 at once (fit)": replace(AGENTS, at_once=20),
    "agents, 40 at once": replace(AGENTS, at_once=40),
    "agents, 60 at once": replace(AGENTS, at_once=60),
    "agents, 100 at once": replace(AGENTS, at_once=100),
    "with sub-agents, 40 at once": replace(AGENTS, programs=100, at_once=40, sub_agent_share=0.1),
    "rollouts, all 128 at once": replace(AGENTS, programs=128, at_once=128, tasks=16),
    "people": replace(AGENTS, programs=0, at_once=0, people_per_second=1.3),
    "40 agents and people": replace(AGENTS, at_once=40, people_per_second=0.3),
}
RULES: Mapping[str, tuple[str, Plan]] = {
    "warm": ("warm", PLAN),
    "llm-d": ("llm-d", PLAN),
    "preble": ("preble", PLAN),
    "lmetric": ("lmetric", PLAN),
    "programs": ("programs", PLAN),
    "oracle": ("programs", replace(PLAN, ledger=Oracle)),
    "fixed lifetime": ("programs", replace(PLAN, ledger=lambda _: FixedLifetime())),
    "thunderagent": ("programs", replace(PLAN, ledger=ThunderAgent)),
    "warm, unlimited memory": ("warm", UNLIMITED),
}
"""The last is the bound: no rule can do better with less memory."""

console = Console(highlight=False, width=150)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run. Times in seconds."""

    hit_rate: float
    per_second: float
    """Requests answered per second, until nine in ten were."""
    done: float
    program: float
    """Mean time of an agent, from its first request to its last answer."""
    slowest: float
    """p99 of that over the median."""
    ttft: float
    longest: float
    """Longest time to a first token."""
    people_p99: float
    """p99 of the time to the first token of people."""


def measure(run: Run) -> Figures:
    """What one run showed."""
    programs: dict[int, list[Answer]] = {}
    for answer in run.answers:
        if answer.tenant != PEOPLE:
            programs.setdefault(answer.conversation_key, []).append(answer)
    times = np.array(
        [max(a.end for a in some) - min(a.arrival for a in some) for some in programs.values()] or [0.0]
    )
    ends = np.sort([answer.end for answer in run.answers])
    nine_in_ten = int(0.9 * (ends.size - 1))
    people = [a.first_token - a.arrival for a in run.answers if a.tenant == PEOPLE]
    ttft = run.ttft()
    return Figures(
        hit_rate=run.hit_rate,
        per_second=nine_in_ten / float(ends[nine_in_ten]),
        done=run.seconds,
        program=float(times.mean()),
        slowest=float(np.percentile(times, 99) / max(np.median(times), 1e-9)),
        ttft=float(ttft.mean()),
        longest=float(ttft.max()),
        people_p99=float(np.percentile(people, 99)) if people else 0.0,
    )


def print_case(name: str, seeds: int, rules: Callable[[str], bool]) -> None:
    """One table: every rule on one case, medians over the seeds."""
    console.print(f"\n{name}, median of {seeds} seeds")
    console.print(
        f"{'':24} {'hit':>6} {'req/s':>7} {'done s':>7} {'agent s':>8} {'p99/p50':>8} {'TTFT s':>7} "
        f"{'longest':>8} {'people p99':>10}"
    )
    workloads = [CASES[name].build(seed) for seed in range(seeds)]
    for rule, (policy, plan) in RULES.items():
        if rules(rule):
            runs = [measure(simulate(workload, policy, POLICIES[policy], plan)) for workload in workloads]
            hit, rate, done, program, slowest, ttft, longest, people = (
                median(getattr(run, field) for run in runs) for field in Figures.__dataclass_fields__
            )
            console.print(
                f"{rule:24} {hit:6.3f} {rate:7.2f} {done:7.0f} {program:8.1f} {slowest:8.2f} {ttft:7.2f} "
                f"{longest:8.1f} {people:10.2f}"
            )


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=RULES)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    for name in given.cases:
        print_case(name, given.seeds, given.rules.__contains__)


if __name__ == "__main__":
    main()
