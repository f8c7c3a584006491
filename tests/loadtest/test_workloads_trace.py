"""Recorded traffic: what its lines say, and what is made of that."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from loadtest.workloads.bounds import pooled_hit_rate
from loadtest.workloads.trace import MAX_LINE_BYTES, TraceError, read_trace

TRACE = Path(__file__).parents[3] / "shared/traces/conversation-head.jsonl"


def request(timestamp=0, input_length=1024, output_length=100, hash_ids=(0, 1)):
    """One line."""
    return {
        "timestamp": timestamp,
        "input_length": input_length,
        "output_length": output_length,
        "hash_ids": list(hash_ids),
    }


@pytest.fixture
def write(tmp_path):
    """Writes a trace and returns its path."""

    def write(*lines):
        path = tmp_path / "small.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return path

    return write


def turns_of(workload):
    """The one turn of every session."""
    return [session.turns[0] for session in workload.sessions]


def test_every_request_is_a_session_of_its_own(write):
    """Lengths are scaled, starts count from the first request, and the workload bears the file's name."""
    workload = read_trace(
        write(request(500, 1200, 100, [0, 1, 2]), request(2000, 3, 0, [9])), length_scale=1 / 8
    )
    assert workload.name == "small"
    assert [session.start for session in workload.sessions] == [0.0, 1.5]
    assert [len(session.turns) for session in workload.sessions] == [1, 1]
    assert [(turn.prompt_tokens, turn.output_tokens) for turn in turns_of(workload)] == [(150, 12), (1, 1)]


@pytest.mark.parametrize(("block_size", "length_scale"), [(16, 1.0), (16, 1 / 8), (64, 1 / 8), (128, 1.0)])
def test_every_full_block_has_a_key(write, block_size, length_scale):
    """Of prompt and answer together."""
    workload = read_trace(
        write(request(0, 1500, 700, [0, 1, 2])), block_size=block_size, length_scale=length_scale
    )
    (turn,) = turns_of(workload)
    assert len(turn.keys) == len(set(turn.keys)) == (turn.prompt_tokens + turn.output_tokens) // block_size


def test_equal_ids_are_equal_blocks(write):
    """At 1/8 an id stands for 4 blocks of 16 tokens. Answers, and the block in which a prompt ends, are
    nobody else's, even after the same prompt.
    """
    path = write(
        request(0, 1100, 300, [0, 1, 2]), request(0, 1100, 300, [0, 1, 2]), request(0, 700, 1, [0, 3])
    )
    one, same, other = turns_of(read_trace(path, length_scale=1 / 8))
    assert (one.prompt_tokens, len(one.keys)) == (137, 10)
    assert one.keys[:8] == same.keys[:8]
    assert not set(one.keys[8:]) & set(same.keys[8:])
    assert one.keys[:4] == other.keys[:4]
    assert not set(one.keys[4:]) & set(other.keys[4:])


def test_the_incomplete_block_needs_no_id(write):
    """Without one its full blocks are like no other."""
    one, same = turns_of(read_trace(write(request(0, 1020, 1, [7]), request(0, 1020, 1, [7]))))
    assert one.keys[:32] == same.keys[:32]
    assert not set(one.keys[32:]) & set(same.keys[32:])
    (short,) = turns_of(read_trace(write(request(0, 100, 1, []))))
    assert len(short.keys) == 6


def test_the_conversation_begins_after_the_system_prompt(write):
    """The opening is made of the ids that very many requests have; the next id tells conversations apart."""
    shared = [request(0, 1536, 1, [0, 1, 100 + number]) for number in range(40)]
    continued = request(0, 2048, 1, [0, 1, 100, 200])
    others = [request(0, 600, 1, [500 + number, 600 + number]) for number in range(40)]
    turns = turns_of(read_trace(write(*shared, continued, *others)))
    assert {turn.opening_tokens for turn in turns[:41]} == {1024}
    assert {turn.opening_tokens for turn in turns[41:]} == {0}
    assert len({turn.conversation_key for turn in turns}) == 80
    assert turns[0].conversation_key == turns[40].conversation_key


def test_a_part_of_a_trace_is_the_same_requests(write):
    """They have the keys that they have in the whole, and start at 0."""
    path = write(*(request(1000 * number, 600, 50, [0, number]) for number in range(1, 6)))
    part, whole = read_trace(path, first=1, last=3), read_trace(path)
    assert [session.start for session in part.sessions] == [0.0, 1.0]
    assert [turn.keys for turn in turns_of(part)] == [turn.keys for turn in turns_of(whole)[1:3]]


def test_rounded_timestamps_are_spread(write):
    """Over the distance between them, in the order of the file, by the seed."""
    lines = [request(moment, hash_ids=[0, number]) for moment in (0, 3000, 5999) for number in range(50)]
    path = write(*lines)
    workload = read_trace(path, seed=1)
    starts = [session.start for session in workload.sessions]
    assert starts == sorted(starts)
    assert len(set(starts)) == 150
    assert all(
        3 * (number // 50) - 0.1 < start < 3 * (number // 50 + 1) for number, start in enumerate(starts)
    )
    assert max(after - before for before, after in pairwise(starts)) < 0.5
    assert [turn.keys for turn in turns_of(workload)] == [turn.keys for turn in turns_of(read_trace(path))]
    assert read_trace(path, seed=1) == workload != read_trace(path, seed=2)


def test_timestamps_stay_where_nothing_was_rounded(write):
    """Or where it is asked for."""
    path = write(*(request(moment) for moment in (0, 0, 10, 25, 70)))
    assert [session.start for session in read_trace(path).sessions] == [0, 0, 0.01, 0.025, 0.07]
    path = write(*(request(moment) for moment in (0, 0, 0, 3000, 3000, 3000)))
    raw = read_trace(path, spread_seconds=0)
    assert [session.start for session in raw.sessions] == [0, 0, 0, 3, 3, 3]
    assert read_trace(path, spread_seconds=0.5).sessions[2].start < 0.5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "truncated"),
        ("[]", "array"),
        ({"timestamp": 0, "input_length": 1, "hash_ids": [1]}, "output_length"),
        (request(input_length="9"), "input_length"),
        (request(input_length=0), "input_length"),
        (request(input_length=2**21, hash_ids=range(2**12)), "input_length"),
        (request(output_length=2**21), "output_length"),
        (request(hash_ids=[0, -1]), "hash_ids"),
        (request(hash_ids=[0, 2**63]), "hash_ids"),
        (request(hash_ids=[0]), "hash_ids has 1 numbers, but input_length is 1024"),
        (request(hash_ids=[0, 1, 2]), "hash_ids has 3 numbers"),
        (request(timestamp=-1), "timestamp"),
        (request(timestamp=99), "timestamp"),
        (" " * MAX_LINE_BYTES + "{", "longer than 131,072 bytes"),
    ],
    ids=range(14),
)
def test_a_bad_line_is_named_with_its_field(write, line, said):
    """The message has the file, the number of the line, and what is wrong there."""
    text = line if isinstance(line, str) else json.dumps(line)
    path = write(request(100), "", text)
    with pytest.raises(TraceError, match=rf"small\.jsonl, line 3: .*{said}"):
        read_trace(path)


def test_a_trace_without_requests_is_an_error(write):
    """Or a part of it that has none."""
    with pytest.raises(TraceError, match="no requests"):
        read_trace(write(""))
    with pytest.raises(TraceError, match="no requests from number 5 on"):
        read_trace(write(request()), first=5)


@pytest.mark.parametrize(
    ("block_size", "length_scale", "said"),
    [
        (16, 1 / 3, "10.6667 blocks"),
        (128, 1 / 8, "0.5 blocks"),
        (16, 0, "length_scale"),
        (16, 2, "length_scale"),
    ],
)
def test_ids_must_be_whole_blocks(write, block_size, length_scale, said):
    """Lengths that do not divide evenly are refused with the numbers."""
    with pytest.raises(ValueError, match=said):
        read_trace(write(request()), block_size=block_size, length_scale=length_scale)


@pytest.mark.skipif(not TRACE.exists(), reason="the shared trace is not on this machine")
def test_the_production_trace_has_the_reuse_that_was_measured():
    """Its first 1,000 requests at 1/8 length: all share the opening, and eight small caches lose little."""
    workload = read_trace(TRACE, length_scale=1 / 8, last=1000)
    assert {turn.opening_tokens for turn in turns_of(workload)} == {64}
    unlimited, pooled = pooled_hit_rate(workload, None), pooled_hit_rate(workload, 48_000)
    assert 0.15 < pooled < unlimited < 0.3
