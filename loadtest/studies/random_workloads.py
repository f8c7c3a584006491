"""Rules on random workloads: how far each is from the best of all, on average and at worst.

    python -m loadtest.studies.random_workloads --first 1000 --last 1200 --results FILE.jsonl

Each seed makes a workload and a fleet (`loadtest.workloads.mixture`), played at three loads by every rule.
Results are added to the file, and what is in it is not played again, so a study can be stopped and resumed.
``--set NAME=VALUE`` plays the default rule with another constant, under a name of its own.
"""

import argparse
import gc
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from loadtest.simulator.results import Run
from loadtest.simulator.system import simulate
from loadtest.studies.routing_goals import replaced
from loadtest.workloads.mixture import RandomCase, random_case
from policies.catalog import DEFAULT_POLICY, POLICIES

LOADS = (0.6, 0.8, 1.0)
WARM_UP = 0.25
"""Share of the requests, the first ones, whose times do not count: caches are empty at the beginning."""
FIGURES = ("mean", "p99")

console = Console(highlight=False, width=170)

Key = tuple[int, float, str]
"""Seed, load and rule."""
Figures = dict[str, float]


def measure(run: Run) -> Figures:
    """Mean and p99 of the time to the first token in seconds, and the hit rate, after the warm-up."""
    answers = sorted(run.answers, key=lambda answer: answer.arrival)
    counted = answers[int(WARM_UP * len(answers)) :]
    times = np.array([answer.first_token - answer.arrival for answer in counted])
    prompt = sum(answer.prompt_tokens for answer in counted)
    return {
        "mean": float(times.mean()),
        "p99": float(np.percentile(times, 99)),
        "hit": sum(answer.hit_tokens for answer in counted) / prompt,
    }


def read(path: Path) -> dict[Key, Figures]:
    """What has been played so far."""
    if not path.exists():
        return {}
    rows = map(json.loads, path.read_text().splitlines())
    return {(row["seed"], row["load"], row["rule"]): row["figures"] for row in rows}


def play(case: RandomCase, rule: str, policy: str, load: float) -> str:
    """One line of the file."""
    run = simulate(case.workload, policy, POLICIES[policy], case.plan, load, check=False)
    gc.collect()
    row = {"seed": case.seed, "load": load, "rule": rule, "parts": case.parts, "figures": measure(run)}
    return json.dumps(row) + "\n"


def ratios(results: dict[Key, Figures], rule: str, others: Sequence[str], figure: str) -> dict[Key, float]:
    """A rule's figure over the best of the others', for every seed and load that all of them have played."""
    found = {}
    for seed, load, name in results:
        cases = [results.get((seed, load, other)) for other in others if other != rule]
        if name == rule and None not in cases:
            best = min(case[figure] for case in cases if case)
            found[seed, load, name] = results[seed, load, name][figure] / best
    return found


def report(results: dict[Key, Figures], others: Sequence[str]) -> Iterator[str]:
    """A line for every rule: its figures over those of the best of the other rules in the same case."""
    yield f"{'':34} {'cases':>5}  " + "".join(
        f"{figure + ' / best other: mean':>28} {'median':>7} {'p95':>7} {'worst':>7} {'of seed':>8}"
        for figure in FIGURES
    )
    for rule in sorted({rule for _, _, rule in results}):
        columns, cases = "", 0
        for figure in FIGURES:
            found = ratios(results, rule, others, figure)
            if not found:
                break
            values, cases = np.array(list(found.values())), len(found)
            worst = max(found, key=lambda key: found[key])
            columns += f"{np.exp(np.log(values).mean()):28.3f} {np.median(values):7.3f} "
            columns += f"{np.percentile(values, 95):7.3f} {found[worst]:7.3f} {worst[0]:8}"
        else:
            yield f"{rule:34} {cases:5}  {columns}"


def main() -> None:
    """Play what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--last", type=int, default=20, help="the seed after the last")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=POLICIES)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    constants = {name: float(value) for name, value in (pair.split("=") for pair in given.set)}
    rules = {policy: policy for policy in given.policies}
    if constants:
        rules = {" ".join([DEFAULT_POLICY, *given.set]): DEFAULT_POLICY}
    gc.disable()  # cycles are few, and looking for them takes a quarter of the time
    results = read(given.results)
    for seed in range(given.first, given.last):
        missing = [(load, rule) for load in LOADS for rule in rules if (seed, load, rule) not in results]
        if not missing:
            continue
        case = random_case(seed)
        gc.collect()
        gc.freeze()
        with replaced(constants):
            lines = [play(case, rule, rules[rule], load) for load, rule in missing]
        with given.results.open("a") as file:
            file.writelines(lines)
        gc.unfreeze()
    wanted = {key: row for key, row in read(given.results).items() if given.first <= key[0] < given.last}
    for line in report(wanted, given.policies):
        console.print(line)


if __name__ == "__main__":
    main()
