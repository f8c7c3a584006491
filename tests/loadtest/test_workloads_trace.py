"""Recorded traffic: what its lines say, and what is made of that."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest

from loadtest.workloads.bounds import pooled_hit_rate
from loadtest.workloads.trace import read_trace
from loadtest.workloads.trace_rows import MAX_LINE_BYTES, TraceError

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
        (request(hash_ids=[0, None]), "hash_ids"),
        (request(hash_ids=[0]), "hash_ids has 1 ids, but input_length is 1024"),
        (request(hash_ids=[0, 1, 2]), "hash_ids has 3 ids"),
        (request(hash_ids=range(64)), "--tokens-per-id 16 would fit"),
        (request(timestamp=-1), "timestamp"),
        ({"input_length": 9, "output_length": 9, "hash_ids": [1]}, "no timestamp, nor a session_id"),
        ({"timestamp": 0, "input_length": 9, "output_length": 9}, "no hash_ids"),
        (" " * MAX_LINE_BYTES + "{", "longer than 4,194,304 bytes"),
    ],
    ids=range(15),
)
def test_a_bad_line_is_named_with_its_field(write, line, said):
    """The message has the file, the number of the line, and what is wrong there."""
    text = line if isinstance(line, str) else json.dumps(line)
    path = write(request(100), "", text)
    with pytest.raises(TraceError, match=rf"small\.jsonl, line 3: .*{said}"):
        read_trace(path)


LINES = [request(1000 * number, 600, 50, [0, number]) for number in range(1, 6)]


def lines_of(rows):
    """JSON lines."""
    return "\n".join(map(json.dumps, rows))


TEXT = lines_of(LINES)


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TEXT.encode()),
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode("utf-16"),
        json.dumps(LINES, indent=1).encode(),
        "\n".join(TEXT.splitlines()[::-1]).encode(),
        lines_of({**line, "timestamp": line["timestamp"] / 1000 + 1.7e9} for line in LINES).encode(),
        lines_of({**line, "timestamp": line["timestamp"] * 10**6 + 17 * 10**17} for line in LINES).encode(),
    ],
    ids=["gz", "mark", "utf-16", "array", "unsorted", "seconds since 1970", "nanoseconds since 1970"],
)  # fmt: skip
def test_a_trace_is_read_however_it_is_stored(data, tmp_path):
    """Compression, encoding, order and the unit of dates change no start and no shared block."""
    plain, stored = tmp_path / "plain.jsonl", tmp_path / "stored.jsonl.gz"
    plain.write_text(TEXT)
    stored.write_bytes(data)
    expected, found = read_trace(plain), read_trace(stored)
    assert found.name == "stored"
    assert [one.start for one in found.sessions] == pytest.approx([one.start for one in expected.sessions])
    assert [turn.keys[:32] for turn in turns_of(found)] == [turn.keys[:32] for turn in turns_of(expected)]


@pytest.mark.parametrize(
    ("timestamps", "unit", "seconds"),
    [
        ([300 * number for number in range(20)], "auto", 5.7),
        ([0.3 * number for number in range(20)], "auto", 5.7),
        ([number // 3 for number in range(31)], "auto", 10.0),
        ([300.5 * number for number in range(20)], "auto", 5.7095),
        ([number // 3 for number in range(31)], "ms", 0.01),
        ([300 * number for number in range(20)], "s", 5700.0),
    ],
)
def test_the_unit_of_times_is_what_gives_a_usual_rate(write, timestamps, unit, seconds):
    """Several whole numbers in one unit, or fractions close to each other, are seconds; an option decides."""
    path = write(*(request(moment) for moment in timestamps))
    workload = read_trace(path, spread_seconds=0, time_unit=unit)
    assert workload.sessions[-1].start == pytest.approx(seconds)


def test_ids_may_be_any_numbers_or_texts(write):
    """Hexadecimal digits, negative and large numbers: equal ones are equal blocks."""
    ids = ["0x9f", "0a" * 32, -5, 2**64 - 1]
    one, same, other = turns_of(
        read_trace(write(*(request(0, 2048, 1, these) for these in (ids, ids, ["0x9e", *ids[1:]]))))
    )
    assert one.keys[:128] == same.keys[:128]
    assert not set(one.keys[:32]) & set(other.keys)


def test_another_number_of_tokens_per_id(write):
    """As in Qwen's traces, whose ids stand for 16 tokens."""
    path = write(request(0, 100, 10, range(7)), request(0, 64, 10, range(4)))
    one, other = turns_of(read_trace(path, tokens_per_id=16))
    assert one.keys[:4] == other.keys[:4]
    with pytest.raises(ValueError, match=r"16 tokens times a length_scale of 0.5 are 0.5 blocks"):
        read_trace(path, tokens_per_id=16, length_scale=0.5)


def test_conversations_are_known_by_chat_id(write):
    """A chat that names its parent belongs to the parent's conversation; each request is sent at its time."""
    rows = [(1, -1), (2, -1), (3, 1), (4, 3)]
    lines = [
        request(1000 * number, 1024, 10, [0, number]) | {"chat_id": chat, "parent_chat_id": parent}
        for number, (chat, parent) in enumerate(rows)
    ]
    one, two, three, four = turns_of(read_trace(write(*lines)))
    assert one.conversation_key == three.conversation_key == four.conversation_key != two.conversation_key


def test_rows_with_delays_go_on_with_their_session(write):
    """Milliseconds after the answer before. A row with ids of its own says only what is new."""

    def session(name, **fields):
        return {"session_id": name, "output_length": 100} | fields

    path = write(
        session("whole", timestamp=1000, input_length=1024, hash_ids=[1, 2]),
        session("grows", timestamp=0, input_length=1024, hash_ids=[8, 9]),
        session("whole", delay=2000, input_length=1536, hash_ids=[1, 2, 3]),
        session("grows", delay=500, input_length=160),
        session("late", input_length=160),
    )
    grows, late, whole = read_trace(path).sessions
    assert (grows.start, late.start, whole.start) == (0.0, 0.0, 1.0)
    assert [turn.think_seconds for turn in whole.turns] == [0.0, 2.0]
    assert [turn.prompt_tokens for turn in whole.turns] == [1024, 1536]
    assert whole.turns[0].keys[:64] == whole.turns[1].keys[:64]
    assert [turn.prompt_tokens for turn in grows.turns] == [1024, 1024 + 100 + 160]
    assert grows.turns[1].keys[: (1024 + 100) // 16] == grows.turns[0].keys
    assert len(set(grows.turns[1].keys)) == (1284 + 100) // 16
    assert {turn.conversation_key for turn in grows.turns} == {grows.turns[0].conversation_key}


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
