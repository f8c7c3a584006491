"""Figures over one simulated run, on answers made by hand."""

import math

import pytest

from loadtest.simulator.results import Answer, ReplicaTotals, Run


def answer(first_token, prompt_tokens=100, hit_tokens=0, failed=False):
    """Build the answer to a request that arrived after 1 s."""
    return Answer(1.0, first_token, 9.0, "a", "", prompt_tokens, 0, hit_tokens, 0, 1, 0, 0, 1, failed)


def make_run(answers, replicas, seconds):
    """Build a run of which only the figures matter."""
    return Run("warm", "hand-made", 1.0, 0, answers, replicas, seconds)


def test_figures():
    """Each figure is what its docstring says; requests without a token count as failures, not as times."""
    answers = [answer(1.5, 300, 150), answer(3.0), answer(math.inf, failed=True), answer(2.0, failed=True)]
    replicas = {"a": ReplicaTotals(6.0, 300, 0, 0), "b": ReplicaTotals(2.0, 100, 0, 0)}
    run = make_run(answers, replicas, seconds=10.0)
    assert run.ttft().tolist() == [0.5, 2.0, 1.0]
    assert run.hit_rate == 150 / 600
    assert run.utilisation == pytest.approx(0.4)
    assert run.imbalance == 1.5
    assert run.failures == 2


@pytest.mark.parametrize("replicas", [{}, {"a": ReplicaTotals(0.0, 0, 0, 0)}])
def test_nothing_happened(replicas):
    """A run without answers, or without replicas, has figures too."""
    run = make_run([], replicas, seconds=0.0)
    assert run.ttft().size == 0
    assert (run.hit_rate, run.utilisation, run.imbalance, run.failures) == (0.0, 0.0, 1.0, 0)
