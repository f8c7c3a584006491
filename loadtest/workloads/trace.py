"""Recorded traffic in Mooncake's format: one JSON object per line and request, without any text.

    {"timestamp": 3000, "input_length": 1100, "output_length": 52, "hash_ids": [0, 7, 8]}

``timestamp`` is in milliseconds. ``hash_ids`` has one number for each 512 tokens of the prompt; equal numbers
mean equal text up to there. Some writers give the incomplete block at the end a number too, others do not.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated

import msgspec

from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.workloads.text import block_keys, mix

TOKENS_PER_ID = 512
MAX_TOKENS = 1 << 20
"""The most tokens of a prompt, and of an answer."""
MAX_LINE_BYTES = 1 << 17
"""Room for every id of the longest prompt."""
COMMON_SHARE = 0.01
COMMON_REQUESTS = 32
"""An id in more requests than both is part of a system prompt: no conversation has as many turns."""
UNIQUE = 1 << 63
"""Above all ids: with a line's number, the identity of the text that only this line has."""


class TraceError(ValueError):
    """A trace cannot be read; the message names the line and the field."""


class Line(msgspec.Struct):
    """One request as recorded. Other fields are ignored."""

    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    input_length: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
    hash_ids: list[Annotated[int, msgspec.Meta(ge=0, le=UNIQUE - 1)]]


def read_trace(
    path: Path,
    *,
    block_size: int = 16,
    length_scale: float = 1.0,
    first: int = 0,
    last: int | None = None,
    spread_seconds: float | None = None,
    seed: int = 0,
) -> Workload:
    """The requests from the ``first`` up to, but not with, the ``last`` one. Each is a session of its own: an
    open loop.

    All lengths are multiplied by ``length_scale`` (at most 1); at 1/8 an id stands for 64 tokens, which are 4
    blocks of 16. The answer's blocks, and the block in which the prompt ends, are unlike any other: a trace
    does not tell which part of a later prompt was this answer.

    Timestamps of the published traces are rounded to 3 s, so that about ten requests seem to come in the same
    instant. Nobody sent them like that. So each start is moved by a random part of ``spread_seconds``; the
    order of the requests stays. None takes the usual distance between timestamps if most of them are shared,
    and 0 leaves all as they were recorded.
    """
    keys_per_id = _keys_per_id(block_size, length_scale)
    numbered = list(islice(_numbered_lines(path), first, last))
    if not numbered:
        raise TraceError(f"{path}: no requests from number {first} on")
    starts = _starts([line.timestamp for _, line in numbered], spread_seconds, Random(seed))
    openings = _opening_ids([line.hash_ids for _, line in numbered])
    turns = (
        _turn(line, UNIQUE + number, opening, block_size, length_scale, keys_per_id)
        for (number, line), opening in zip(numbered, openings, strict=True)
    )
    sessions = tuple(Session(start, (turn,)) for start, turn in zip(starts, turns, strict=True))
    return Workload(path.stem, block_size, sessions)


def _keys_per_id(block_size: int, length_scale: float) -> int:
    if not 0 < length_scale <= 1:
        raise ValueError(f"length_scale is {length_scale}: expected more than 0 and at most 1")
    keys = TOKENS_PER_ID * length_scale / block_size
    if keys < 1 or not keys.is_integer():
        raise ValueError(
            f"{TOKENS_PER_ID} tokens times a length_scale of {length_scale} are {keys:g} blocks of "
            f"{block_size} tokens: expected a whole number"
        )
    return int(keys)


def _numbered_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """All requests, each with the number of its line, from 1."""
    decoder = msgspec.json.Decoder(Line)
    previous = 0.0
    with path.open("rb") as file:
        for number, text in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
            where = f"{path}, line {number}"
            if text.isspace():
                continue
            if len(text) > MAX_LINE_BYTES:
                raise TraceError(f"{where}: longer than {MAX_LINE_BYTES:,} bytes")
            try:
                line = decoder.decode(text)
            except msgspec.MsgspecError as error:
                raise TraceError(f"{where}: {error}") from error
            num_ids, tokens = len(line.hash_ids), line.input_length
            if not tokens // TOKENS_PER_ID <= num_ids <= -(-tokens // TOKENS_PER_ID):
                raise TraceError(
                    f"{where}: hash_ids has {num_ids} numbers, but input_length is {tokens} tokens: expected "
                    f"one for each {TOKENS_PER_ID}"
                )
            if line.timestamp < previous:
                raise TraceError(f"{where}: timestamp {line.timestamp:g} is before that of the previous line")
            previous = line.timestamp
            yield number, line


def _starts(timestamps: Sequence[float], spread_seconds: float | None, source: Random) -> list[float]:
    """Seconds after the first timestamp, in order."""
    if spread_seconds is None:
        spread_seconds = _usual_distance(timestamps)
    return sorted(
        (timestamp - timestamps[0]) / 1000 + spread_seconds * source.random() for timestamp in timestamps
    )


def _usual_distance(timestamps: Sequence[float]) -> float:
    """Seconds between timestamps if most requests share theirs with another, else 0."""
    moments = sorted(set(timestamps))
    if len(moments) < 2 or 2 * len(moments) > len(timestamps):
        return 0.0
    return median(after - before for before, after in pairwise(moments)) / 1000


def _opening_ids(requests: Sequence[Sequence[int]]) -> list[int]:
    """How many leading ids of each request belong to a system prompt: those in very many requests, or in
    more than half of them.
    """
    counts = Counter(block_id for ids in requests for block_id in set(ids))
    many = min(max(COMMON_SHARE * len(requests), COMMON_REQUESTS), len(requests) / 2)
    return [
        next((place for place, block_id in enumerate(ids) if counts[block_id] <= many), len(ids))
        for ids in requests
    ]


def _turn(line: Line, own: int, opening: int, block_size: int, length_scale: float, keys_per_id: int) -> Turn:
    """One request. Its conversation is known by the first id after the system prompt, and text without an id
    by the number that is its ``own``.
    """
    ids = line.hash_ids
    prompt_tokens = max(int(line.input_length * length_scale), 1)
    output_tokens = max(int(line.output_length * length_scale), 1)
    num_known = min(prompt_tokens // block_size, len(ids) * keys_per_id)
    num_blocks = (prompt_tokens + output_tokens) // block_size
    known = [key for block_id in ids for key in block_keys(mix(block_id), range(keys_per_id))][:num_known]
    return Turn(
        think_seconds=0.0,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        keys=(*known, *block_keys(mix(own), range(num_known, num_blocks))),
        conversation_key=mix(ids[opening] if opening < len(ids) else own),
        opening_tokens=min(opening * keys_per_id * block_size, prompt_tokens),
    )
