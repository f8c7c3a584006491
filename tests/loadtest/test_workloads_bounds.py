"""The bound of one pooled cache: counted by hand, and against a model that is as plain as can be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.workloads.bounds import estimated_order, pooled_hit_rate, pooled_hits
from loadtest.workloads.text import Part, Text

BLOCK = 4


def turn(prompt_tokens, output_tokens, keys, think_seconds=0.0):
    """One request; only these fields matter here."""
    return Turn(think_seconds, prompt_tokens, output_tokens, keys, conversation_key=0, opening_tokens=0)


def one_after_the_other(turns):
    """Each a session of its own, a second apart."""
    sessions = tuple(Session(float(start), (turn,)) for start, turn in enumerate(turns))
    return Workload("test", BLOCK, sessions)


def hits_of(workload, total_blocks):
    """Tokens of every request."""
    return [hits for _, _, hits in pooled_hits(workload, total_blocks)]


def test_a_prompt_is_never_a_hit_to_its_last_token():
    """Of 8 tokens in 2 cached blocks, the first block is hit; with a ninth token both are."""
    repeated = [turn(8, 1, [1, 2]), turn(8, 1, [1, 2]), turn(9, 1, [1, 2])]
    assert hits_of(one_after_the_other(repeated), None) == [0, 4, 8]
    assert pooled_hit_rate(one_after_the_other(repeated), None) == pytest.approx(12 / 25)


def test_answers_can_be_hit():
    """The next turn finds the blocks of the answer to the one before."""
    assert hits_of(one_after_the_other([turn(6, 6, [1, 2, 3]), turn(14, 2, [1, 2, 3, 4])]), None) == [0, 12]


def test_the_least_recently_used_goes_first_and_tails_before_heads():
    """Three blocks: the tail of the older prompt makes room, its head stays."""
    prompts = [turn(9, 1, [1, 2]), turn(9, 1, [5, 6]), turn(9, 1, [1, 2])]
    assert hits_of(one_after_the_other(prompts), 3) == [0, 0, 4]
    assert hits_of(one_after_the_other(prompts), 4) == [0, 0, 8]
    assert hits_of(one_after_the_other(prompts), 2) == [0, 0, 0]


def test_an_empty_workload_hits_nothing():
    """Instead of a division by zero."""
    assert pooled_hit_rate(Workload("test", BLOCK, ()), 10) == 0.0


def test_later_turns_come_after_the_answers_before_them():
    """A session's second turn waits for its answer and its pause, and others go first."""
    slow = Session(0.0, (turn(8, 100, [1]), turn(9, 1, [2], think_seconds=1.0)))
    other = Session(4.0, (turn(8, 1, [3], think_seconds=0.1),))
    order = estimated_order(Workload("test", BLOCK, (slow, other)))
    assert [turn.keys for _, turn in order] == [[1], [3], [2]]
    assert [start for start, _ in order] == pytest.approx([0.0, 4.1, 0.2 + 3.0 + 1.0])


part = st.builds(Part, st.integers(0, 2), st.integers(1, 10))


@given(st.lists(st.tuples(st.lists(part, min_size=1, max_size=4), st.integers(1, 9))), st.integers(1, 12))
def test_it_agrees_with_a_plain_model(requests, total_blocks):
    """The model keeps a list of blocks from the oldest to the newest and looks at nothing else."""
    turns = []
    for number, (parts, output_tokens) in enumerate(requests):
        prompt = Text(BLOCK)
        for one in parts:
            prompt = prompt.then(one)
        answered = prompt.then(Part(100 + number, output_tokens))
        turns.append(turn(prompt.tokens, output_tokens, answered.keys))

    held, expected = [], []
    for one in turns:
        hit = 0
        while (hit + 1) * BLOCK < one.prompt_tokens and one.keys[hit] in held:
            hit += 1
        expected.append(hit * BLOCK)
        held = [key for key in held if key not in one.keys] + list(one.keys)[::-1]
        held = held[-total_blocks:]

    assert hits_of(one_after_the_other(turns), total_blocks) == expected
