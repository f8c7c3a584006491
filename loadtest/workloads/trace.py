"""Recorded traffic as a workload."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median

import xxhash

from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.workloads.text import block_keys, mix
from loadtest.workloads.trace_rows import (
    MAX_TOKENS,
    TOKENS_PER_ID,
    UNIQUE,
    Recorded,
    TimeUnit,
    TraceError,
    read_rows,
    trace_name,
)

COMMON_SHARE = 0.01
COMMON_REQUESTS = 32
"""An id in more requests than both is part of a system prompt: no conversation has as many turns."""


def read_trace(
    path: Path,
    *,
    block_size: int = 16,
    length_scale: float = 1.0,
    first: int = 0,
    last: int | None = None,
    spread_seconds: float | None = None,
    seed: int = 0,
    tokens_per_id: int = TOKENS_PER_ID,
    time_unit: TimeUnit = "auto",
) -> Workload:
    """The requests from the ``first`` up to, but not with, the ``last`` one, in the order of time. Each is a
    session of its own, an open loop, but for rows with a delay: these go on with their session. Where such a
    row's ids do not begin with those of the row before, it says only what is new, and what its session has
    sent and received stands in front.

    All lengths are multiplied by ``length_scale`` (at most 1); at 1/8 an id stands for 64 tokens, which are 4
    blocks of 16. The answer's blocks, and the block in which the prompt ends, are unlike any other: a trace
    does not tell which part of a later prompt was this answer.

    Timestamps of the published traces are rounded to 3 s, so that about ten requests seem to come in the same
    instant. Nobody sent them like that. So each start is moved by a random part of ``spread_seconds``; the
    order of the requests stays. None takes the usual distance between timestamps if most of them are shared,
    and 0 leaves all as they were recorded.
    """
    keys_per_id = _keys_per_id(tokens_per_id, block_size, length_scale)
    rows = read_rows(path, tokens_per_id, time_unit)[first:last]
    if not rows:
        raise TraceError(f"{path}: no requests from number {first} on")
    openings = _opening_ids(rows)
    sessions: list[tuple[float, list[Turn]]] = []
    going_on: dict[str, tuple[list[Turn], Recorded]] = {}
    for row, opening in zip(rows, openings, strict=True):
        turn = _turn(row, opening, block_size, length_scale, keys_per_id)
        turns, before = going_on.get(row.conversation, ([], None))
        if row.delay is None or before is None:
            turns = [turn]
            sessions.append((row.start, turns))
        else:
            turns.append(_next_turn(turn, turns[-1], row, before, block_size))
        if row.conversation:
            going_on[row.conversation] = turns, row
    starts = _starts([start for start, _ in sessions], spread_seconds, Random(seed))
    return Workload(
        trace_name(path),
        block_size,
        tuple(Session(start, tuple(turns)) for start, (_, turns) in zip(starts, sessions, strict=True)),
    )


def _next_turn(turn: Turn, last: Turn, row: Recorded, before: Recorded, block_size: int) -> Turn:
    """A turn that follows on another of its session, after its delay."""
    turn = replace(turn, think_seconds=row.delay or 0.0, conversation_key=last.conversation_key)
    if _is_whole(row, before):
        return turn
    prompt_tokens = last.prompt_tokens + last.output_tokens + turn.prompt_tokens
    if prompt_tokens > MAX_TOKENS:
        raise TraceError(f"line {row.line}: its session has grown beyond {MAX_TOKENS:,} tokens")
    new = range(len(last.keys), (prompt_tokens + turn.output_tokens) // block_size)
    return replace(
        turn,
        prompt_tokens=prompt_tokens,
        keys=(*last.keys, *block_keys(mix(UNIQUE + row.line), new)),
        opening_tokens=last.opening_tokens,
    )


def _is_whole(row: Recorded, before: Recorded) -> bool:
    """Whether a row's prompt contains that of the row before. Its last id may have changed."""
    num_full = len(before.ids) - 1
    if num_full < 1:
        return row.input_tokens > before.input_tokens + before.output_tokens
    return row.ids[:num_full] == before.ids[:num_full]


def _keys_per_id(tokens_per_id: int, block_size: int, length_scale: float) -> int:
    if not 0 < length_scale <= 1:
        raise ValueError(f"length_scale is {length_scale}: expected more than 0 and at most 1")
    keys = tokens_per_id * length_scale / block_size
    if keys < 1 or not keys.is_integer():
        raise ValueError(
            f"{tokens_per_id} tokens times a length_scale of {length_scale} are {keys:g} blocks of "
            f"{block_size} tokens: expected a whole number"
        )
    return int(keys)


def _starts(timestamps: Sequence[float], spread_seconds: float | None, source: Random) -> list[float]:
    """Seconds after the first timestamp, in order."""
    if spread_seconds is None:
        spread_seconds = _usual_distance(timestamps)
    return sorted(timestamp - timestamps[0] + spread_seconds * source.random() for timestamp in timestamps)


def _usual_distance(timestamps: Sequence[float]) -> float:
    """Seconds between timestamps if most requests share theirs with another, else 0."""
    moments = sorted(set(timestamps))
    if len(moments) < 2 or 2 * len(moments) > len(timestamps):
        return 0.0
    return median(after - before for before, after in pairwise(moments))


def _opening_ids(rows: Sequence[Recorded]) -> list[int]:
    """How many leading ids of each request belong to a system prompt: those in very many conversations, or in
    more than half of them. A request whose conversation has no name counts as one.
    """
    conversations: dict[str | int, set[int]] = {}
    for row in rows:
        conversations.setdefault(row.conversation or row.line, set()).update(row.ids)
    counts = Counter(block_id for ids in conversations.values() for block_id in ids)
    many = min(max(COMMON_SHARE * len(conversations), COMMON_REQUESTS), len(conversations) / 2)
    return [
        next((place for place, block_id in enumerate(row.ids) if counts[block_id] <= many), len(row.ids))
        for row in rows
    ]


def _turn(row: Recorded, opening: int, block_size: int, length_scale: float, keys_per_id: int) -> Turn:
    """One request. Its conversation is known by its name, or by the first id after the system prompt; text
    without an id by the number of its line.
    """
    ids, own = row.ids, UNIQUE + row.line
    prompt_tokens = max(int(row.input_tokens * length_scale), 1)
    output_tokens = max(int(row.output_tokens * length_scale), 1)
    num_known = min(prompt_tokens // block_size, len(ids) * keys_per_id)
    num_blocks = (prompt_tokens + output_tokens) // block_size
    known = [key for block_id in ids for key in block_keys(mix(block_id), range(keys_per_id))][:num_known]
    named = xxhash.xxh3_64_intdigest(row.conversation.encode()) if row.conversation else 0
    return Turn(
        think_seconds=0.0,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        keys=(*known, *block_keys(mix(own), range(num_known, num_blocks))),
        conversation_key=named or mix(ids[opening] if opening < len(ids) else own),
        opening_tokens=min(opening * keys_per_id * block_size, prompt_tokens),
    )
