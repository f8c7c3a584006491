"""Hand-made runs and experiments, with figures that can be worked out in one's head."""

import math

from loadtest.replay.figures import Experiment
from loadtest.simulator.results import Answer, ReplicaTotals, Run

PROMPT_TOKENS = 1000


def answer(ttft: float = 0.1, hit_tokens: int = 0, arrival: float = 1.0, failed: bool = False) -> Answer:
    """One request; one that failed got no token."""
    first_token = math.inf if failed else arrival + ttft
    return Answer(
        arrival, first_token, arrival + ttft + 1, "a", "", PROMPT_TOKENS, 0, hit_tokens, 0, 1, 0, 0, 1, failed
    )


def run(policy: str = "warm", load: float = 1.0, seed: int = 1, answers: list[Answer] | None = None) -> Run:
    """A run over two replicas, one of which computed three times as much as the other."""
    replicas = {"a": ReplicaTotals(30.0, 3000, 0, 0), "b": ReplicaTotals(10.0, 1000, 0, 0)}
    return Run(policy, "hand-made", load, seed, answers or [answer()], replicas, seconds=100.0)


def experiment(*runs: Run, **fields: object) -> Experiment:
    """An experiment of these runs."""
    values = {"title": "hand-made", "command": "warmroute replay", "facts": {}, "runs": runs} | fields
    return Experiment(**values)
