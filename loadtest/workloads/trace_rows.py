"""The rows of a trace file: one JSON object per request, without any text, in the order of time.

    {"timestamp": 3000, "input_length": 1100, "output_length": 52, "hash_ids": [0, 7, 8]}

``hash_ids`` has one id, a number or a text (such as hexadecimal digits), for each so many tokens of the
prompt; equal ids mean equal text up to there. Some writers give the incomplete block at the end an id too,
others do not. Rows with ``session_id`` and ``delay`` instead of ``timestamp`` come so long after the answer
to the session's previous row. ``chat_id`` and ``parent_chat_id`` tell which requests are one conversation.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
import xxhash

from loadtest.text_file import TextFormatError, json_records, open_lines

TOKENS_PER_ID = 512
"""Mooncake's; Qwen's traces have 16."""
MAX_TOKENS = 1 << 20
"""The most tokens of a prompt, and of an answer."""
MAX_LINE_BYTES = 1 << 22
"""Room for every id of the longest prompt."""
UNIQUE = 1 << 63
"""Above all ids: with a line's number, the identity of the text that only this line has."""
EPOCHS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (1e9, 1.0))
"""Timestamps from the first number on are since 1970, with so many of them in a second."""
WHOLE_GAP, FRACTION_GAP = 1.0, 30.0
"""The mean distance between timestamps from which on they are milliseconds: of whole numbers, of others."""
FEW_ROWS = 10

TimeUnit = Literal["auto", "s", "ms"]
TIME_UNITS: tuple[str, ...] = get_args(TimeUnit)
Time = Annotated[float, msgspec.Meta(ge=0)]
Name = int | str | None


class TraceError(ValueError):
    """A trace cannot be read; the message names the line and the field."""


class Row(msgspec.Struct):
    """One request as recorded. Other fields are ignored."""

    input_length: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
    hash_ids: list[int | str] | None = None
    timestamp: Time | None = None
    delay: Time | None = None
    session_id: Name = None
    chat_id: Name = None
    parent_chat_id: Name = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request of a trace."""

    line: int
    start: float
    """Seconds since the first request; of a row with a delay, the start of its session."""
    delay: float | None
    """Seconds after the answer to the session's previous row; None for a row with a time of its own."""
    ids: Sequence[int]
    input_tokens: int
    output_tokens: int
    conversation: str
    """What the trace calls the conversation; "" when it does not."""


def trace_name(path: Path) -> str:
    """The file's name without its endings."""
    return Path(path.name.removesuffix(".gz")).stem


def read_rows(path: Path, tokens_per_id: int, unit: TimeUnit) -> list[Recorded]:
    """All rows in the order of time, each session's after another. Raises `TraceError`."""
    try:
        rows = list(_rows(path, tokens_per_id))
    except (EOFError, zlib.error, TextFormatError) as error:
        raise TraceError(f"{path}: {error}") from error
    seconds = _units_per_second([row.timestamp for _, row in rows if row.timestamp is not None], unit)
    begin = min((row.timestamp for _, row in rows if row.timestamp is not None), default=0.0)
    starts: dict[Name, float] = {}
    roots: dict[Name, Name] = {}
    recorded = []
    for line, row in rows:
        if row.timestamp is None:
            start = starts.setdefault(row.session_id, 0.0)
        else:
            start = starts[row.session_id] = (row.timestamp - begin) / seconds
        root = roots[row.chat_id] = roots.get(row.parent_chat_id, row.chat_id)
        conversation = root if row.session_id is None else row.session_id
        recorded.append(
            Recorded(
                line,
                start,
                row.delay / seconds if row.timestamp is None and row.delay is not None else None,
                [_number(one) for one in row.hash_ids or ()],
                row.input_length,
                row.output_length,
                "" if conversation is None else str(conversation),
            )
        )
    return sorted(recorded, key=lambda one: one.start)


def _rows(path: Path, tokens_per_id: int) -> Iterator[tuple[int, Row]]:
    decoder = msgspec.json.Decoder(Row)
    with open_lines(str(path)) as (_, lines):
        for number, record in json_records(lines, MAX_LINE_BYTES):
            where = f"{path}, line {number}"
            if record is None:
                raise TraceError(f"{where}: longer than {MAX_LINE_BYTES:,} bytes")
            try:
                row = decoder.decode(record)
            except msgspec.MsgspecError as error:
                raise TraceError(f"{where}: {error}") from error
            if row.timestamp is None and row.session_id is None:
                raise TraceError(f"{where}: no timestamp, nor a session_id with a delay")
            if row.hash_ids is not None:
                _check_ids(len(row.hash_ids), row.input_length, tokens_per_id, where)
            elif row.session_id is None:
                raise TraceError(f"{where}: no hash_ids, which say what requests share")
            yield number, row


def _check_ids(num_ids: int, tokens: int, tokens_per_id: int, where: str) -> None:
    def fits(size: int) -> bool:
        return tokens // size <= num_ids <= -(-tokens // size)

    if not fits(tokens_per_id):
        fitting = next((size for size in (2**power for power in range(13)) if fits(size)), None)
        way_out = f"; --tokens-per-id {fitting} would fit" if fitting and num_ids > 1 else ""
        raise TraceError(
            f"{where}: hash_ids has {num_ids} ids, but input_length is {tokens} tokens: expected one for "
            f"each {tokens_per_id}{way_out}"
        )


def _number(one: int | str) -> int:
    """A number below `UNIQUE` that stands for an id."""
    if isinstance(one, int) and 0 <= one < UNIQUE:
        return one
    return xxhash.xxh3_64_intdigest(str(one).encode()) >> 1


def _units_per_second(timestamps: Sequence[float], unit: TimeUnit) -> float:
    """How many units of the timestamps are a second. Nothing in a trace says so: dates do by their size, and
    else the mean distance between requests, which is that of a service under load.
    """
    if unit != "auto":
        return 1.0 if unit == "s" else 1000.0
    first, last = min(timestamps, default=0.0), max(timestamps, default=0.0)
    for least, units in EPOCHS:
        if first >= least:
            return units
    if all(one.is_integer() for one in timestamps):
        is_seconds = len(timestamps) > FEW_ROWS and (last - first) / len(timestamps) < WHOLE_GAP
    else:
        is_seconds = (last - first) / len(timestamps) < FRACTION_GAP
    return 1.0 if is_seconds else 1000.0
