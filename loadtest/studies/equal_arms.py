"""Whether ``warmroute loadtest`` misleads: trials of which the truth is known, in virtual time.

Both arms are the same policy. With ``--faster 0`` no trial may claim a difference, and 5 of 100 do at most;
otherwise the second arm's times to the first token are shorter by so much, and a trial that plays the rounds
that it asks for should find it in 90 of 100 cases.

The rounds come from the simulator, each with conversations and an engine of its own speed: what the machine
had to do meanwhile. ``quiet``: speeds differ by 2% from round to round; ``shared``: by 8%, and each round
resembles the one before; ``disturbed``: besides, one round in eight is 1.3 to 2 times as slow.

    python -m loadtest.studies.equal_arms --trials 100
    python -m loadtest.studies.equal_arms --trials 100 --faster 0.1
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from rich.console import Console

from loadtest.scenarios.scenario import load_scenario
from loadtest.simulator.plan import Plan
from loadtest.simulator.profiles import EngineProfile
from loadtest.simulator.system import simulate
from loadtest.trial.compare import Outcome, compare_all, rounds_for
from loadtest.trial.records import Answer, Lag, Round, Trial
from policies.catalog import DEFAULT_POLICY, POLICIES

ARMS = ("A", "B")
SEEDS = 12
"""Different conversations of a round; a trial takes them in an order of its own."""
GRID = 0.2
"""Distance between the engine speeds that are simulated, as logarithms; what is left scales the times."""
JITTER = 0.1
FIRST_ROUNDS = 6
MOST_ROUNDS = 200
CLAIMS = (Outcome.BETTER, Outcome.WORSE)


@dataclass(frozen=True, slots=True)
class Machine:
    """How the speed differs from round to round, as logarithms."""

    spread: float
    memory: float = 0.0
    """How much a round resembles the one before: 0 not at all, 1 it is the same."""
    disturbed: float = 0.0
    """Share of rounds that are much slower."""

    def slowness(self, source: Random, before: float) -> tuple[float, float]:
        """How many times as long a round takes, and what the next one is to be given as ``before``."""
        noise = source.gauss(0, self.spread * math.sqrt(1 - self.memory**2))
        now = self.memory * before + noise
        burst = source.uniform(math.log(1.3), math.log(2)) if source.random() < self.disturbed else 0.0
        return math.exp(now + burst), now


MACHINES = {
    "quiet": Machine(0.02),
    "shared": Machine(0.08, 0.7),
    "disturbed": Machine(0.08, 0.7, 1 / 8),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What one trial came to."""

    claims: Sequence[str]
    """Figures in which it says that an arm is better or worse."""
    found: bool
    """Whether it says that B is better in the median or mean TTFT."""
    rounds: int
    asked: int


@cache
def simulated(seed: int, step: int, seconds: float, rate: float) -> list[Answer]:
    """One round in virtual time, on engines that need ``exp(step * GRID)`` times as long for everything."""
    scenario = load_scenario("support-bot")
    arrivals = scenario.arrivals.model_copy(update={"conversations_per_second": rate})
    workload = replace(scenario, arrivals=arrivals).workload(seed, seconds=seconds)
    plan = Plan(replicas=2, profile=EngineProfile().slower(math.exp(step * GRID)))
    run = simulate(workload, DEFAULT_POLICY, POLICIES[DEFAULT_POLICY], plan, 1.0, seed)
    return [
        Answer(
            str(one.conversation_key), 0, one.arrival, one.first_token - one.arrival, one.end - one.arrival,
            one.prompt_tokens, one.hit_tokens, 2, one.replica,
        )
        for one in run.answers
    ]  # fmt: skip


def play(arm: str, number: int, seed: int, slowness: float, faster: float, source: Random) -> Round:
    """One round of one arm, with the jitter of single requests."""
    seconds = 30.0
    step = round(math.log(slowness) / GRID)
    scale = slowness / math.exp(step * GRID)
    answers = []
    for one in simulated(seed, step, seconds, 1.0):
        ttft = one.ttft * scale * math.exp(source.gauss(0, JITTER)) / (1 + faster)
        rest = (one.latency - one.ttft) * scale * math.exp(source.gauss(0, JITTER))
        answers.append(replace(one, ttft=ttft, latency=ttft + rest))
    return Round(arm, number, 1.0, seconds, seconds, answers, Lag(0.0, 0.0))


def trial(machine: Machine, faster: float, seed: int, seeds: int = SEEDS) -> Result:
    """Play the first rounds, and then as many as are asked for, until no more are."""
    source = Random(seed)
    before, rounds, asked, wanted = 0.0, list[Round](), 0, FIRST_ROUNDS
    while True:
        for number in range(len(rounds) // 2, wanted):
            conversations = source.randrange(seeds)
            for arm in source.sample(ARMS, 2):
                slowness, before = machine.slowness(source, before)
                gain = faster if arm == "B" else 0.0
                rounds.append(play(arm, number, conversations, slowness, gain, source))
        comparisons = compare_all(Trial("", "", ARMS, (), rounds, ()))
        needed = rounds_for(comparisons) or MOST_ROUNDS
        asked += needed > wanted
        if needed <= wanted or wanted == MOST_ROUNDS:
            break
        wanted = min(needed, MOST_ROUNDS)
    claims = [one.figure.key for one in comparisons if one.outcome in CLAIMS]
    found = any(
        one.outcome is Outcome.BETTER and one.figure.key in ("ttft_p50", "ttft_mean") for one in comparisons
    )
    return Result(claims, found, wanted, asked)


def main() -> None:
    """Play trials on every machine, and print what they claim."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument(
        "--faster", type=float, default=0.0, help="0.1: B's first tokens come 1.1 times as fast"
    )
    parser.add_argument("--first", type=int, default=0, help="seed of the first trial")
    given = parser.parse_args()
    console = Console(highlight=False, width=200)
    for name, machine in MACHINES.items():
        results = [trial(machine, given.faster, given.first + number) for number in range(given.trials)]
        rounds = sorted(result.rounds for result in results)
        console.print(
            f"{name:10} {sum(bool(result.claims) for result in results)} of {len(results)} trials claim a "
            f"difference, {sum(result.found for result in results)} that B's TTFT is shorter; rounds of each "
            f"arm {rounds[0]} to {rounds[-1]}, {rounds[len(rounds) // 2]} in the median",
        )


if __name__ == "__main__":
    main()
