"""The pure parts of the comparison between simulator and real processes."""

from dataclasses import replace

import numpy as np
import pytest

from loadtest.harness.workload_player import TokenTexts, conversation_key
from loadtest.simulator.profiles import PROFILES, EngineProfile
from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.studies.validate_simulator import (
    as_routed,
    comparison,
    computing_seconds,
    cut,
    engine_options,
    figures,
    kolmogorov_smirnov,
)

SIZE = 4
FIRST = Turn(0.0, prompt_tokens=10, output_tokens=7, keys=(1, 2, 3, 4), conversation_key=9, opening_tokens=4)
SECOND = replace(FIRST, think_seconds=1.0, prompt_tokens=20, keys=(1, 2, 3, 4, 5, 6))
ANSWER = [101, 102, 103, 104, 105, 106, 107]


def chat(*starts: float) -> Workload:
    """One conversation of two turns at each start."""
    return Workload("chat", SIZE, tuple(Session(start, (FIRST, SECOND)) for start in starts))


def test_equal_keys_are_sent_as_equal_tokens() -> None:
    """Two sessions share the tokens of their full blocks, and differ in what follows them."""
    texts = TokenTexts(SIZE)
    one, other = texts.prompt(FIRST, (0, 0)), texts.prompt(FIRST, (1, 0))
    assert len(one) == FIRST.prompt_tokens
    assert one[:8] == other[:8]
    assert one[8:] != other[8:]
    assert one[:4] != one[4:8]


def test_a_turn_repeats_the_answer_that_came() -> None:
    """Blocks that the answer filled, the first of them begun by the prompt, are in the next prompt as in the
    engine's cache.
    """
    texts = TokenTexts(SIZE)
    prompt = texts.prompt(FIRST, (0, 0))
    texts.answer(FIRST, prompt, ANSWER)
    assert texts.prompt(SECOND, (0, 1))[:16] == [*prompt, *ANSWER][:16]


def test_conversation_is_known_by_its_first_512_tokens() -> None:
    """What follows them changes nothing."""
    tokens = list(range(600))
    assert conversation_key(tokens) == conversation_key(tokens[:512])
    assert conversation_key(tokens) != conversation_key(tokens[:511])


def test_simulator_gets_what_the_router_saw() -> None:
    """Turns get the keys they were sent with and no opening; another placement keeps apart what was apart."""
    sent = {(0, 0): 5, (0, 1): 6, (1, 0): 5, (1, 1): 7}
    for placement in (0, 1):
        routed = as_routed(chat(0.0, 1.0), sent, placement)
        turns = [turn for session in routed.sessions for turn in session.turns]
        assert {turn.opening_tokens for turn in turns} == {0}
        assert turns[0].conversation_key == turns[2].conversation_key
        assert len({turn.conversation_key for turn in turns}) == 3
    first, other = (as_routed(chat(0.0, 1.0), sent, placement) for placement in (0, 1))
    assert first != other


def test_cut_brings_turns_to_a_rate() -> None:
    """Six turns in four seconds, played at 3 per second, start twice as fast; later sessions are left out."""
    part = cut(chat(0.0, 2.0, 4.0), rate=3.0, seconds=1.5)
    assert [session.start for session in part.sessions] == [0.0, 1.0]


def test_engines_that_run_in_real_time_refuse_costs_they_do_not_know() -> None:
    """A profile whose steps depend on the context cannot be compared."""
    with pytest.raises(ValueError, match="no cost of context"):
        engine_options(EngineProfile(decode_context_seconds=1e-6))
    assert engine_options(PROFILES["sim"])[:2] == ["--step-ms", "10.0"]


def test_computing_seconds_counts_steps() -> None:
    """A prompt longer than a step's tokens takes several."""
    profile = EngineProfile(step_seconds=0.01, prefill_seconds=0.001, max_batched_tokens=100)
    assert computing_seconds(profile, 100) == pytest.approx(0.11)
    assert computing_seconds(profile, 101) == pytest.approx(0.121)


def test_kolmogorov_smirnov_distance() -> None:
    """0 for equal samples, 1 for samples apart, and the greatest gap in between."""
    low, high = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    assert kolmogorov_smirnov(low, low) == 0.0
    assert kolmogorov_smirnov(low, high) == 1.0
    assert kolmogorov_smirnov(np.array([1.0, 2.0, 3.0, 4.0]), high) == 0.5


def test_figures_are_in_milliseconds_and_percent() -> None:
    """Mean, percentiles and hit rate under their names."""
    shown = figures(np.array([0.1, 0.3]), 0.25)
    assert shown["TTFT mean, ms"] == pytest.approx(200.0)
    assert shown["TTFT p50, ms"] == pytest.approx(200.0)
    assert shown["hit rate, %"] == 25.0


@pytest.mark.parametrize(("simulated", "good"), [((95.0, 105.0), True), ((109.0, 115.0), False)])
def test_a_figure_more_than_a_tenth_off_fails(simulated: tuple[float, float], good: bool) -> None:
    """The mean of the simulations counts, not each one."""
    _, all_good = comparison({"TTFT mean, ms": 100.0}, [{"TTFT mean, ms": value} for value in simulated])
    assert all_good is good
