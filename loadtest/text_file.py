"""Text files as people have them: gzipped, with a byte order mark, in UTF-16, with any line ends."""

import gzip
import io
import re
import sys
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import BinaryIO, Protocol, cast

CHUNK_BYTES = 1 << 20
UTF8_MARK = b"\xef\xbb\xbf"
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\xfd7zXZ": "compressed by xz",
    b"BZh": "compressed by bzip2",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
}
"""First bytes of what people have instead of text."""
VALUE = re.compile(r"[^\s,\[\]]")
"""What no value begins with may stand between the elements of an array, and around them."""


class TextFormatError(ValueError):
    """A file is no text; the message says what it is."""


class Lines(Protocol):
    """What gives lines of UTF-8."""

    def readline(self, size: int, /) -> bytes:
        """The next line with its end; only a part of one that has more than ``size`` bytes."""
        ...


class _Recoded:
    """Lines of UTF-16 as UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._text = io.TextIOWrapper(stream, encoding, errors="replace", newline="\n")

    def readline(self, size: int) -> bytes:
        return self._text.readline(size).encode()


@contextmanager
def open_lines(path: str) -> Iterator[tuple[BinaryIO | None, Lines]]:
    """The lines of a file, or of standard input for "-"; before them, the file itself, which tells how far it
    has been read. Raises `TextFormatError`.
    """
    if path == "-":
        yield None, _as_text(cast(io.BufferedReader, sys.stdin.buffer))
        return
    with Path(path).open("rb") as raw:
        yield raw, _as_text(raw)


def _as_text(raw: io.BufferedReader) -> Lines:
    stream = raw
    if raw.peek(2)[:2] == b"\x1f\x8b":
        stream = cast(io.BufferedReader, gzip.GzipFile(fileobj=raw))
    head = stream.peek(16)[:16]
    for start, name in OTHER_FORMATS.items():
        if head.startswith(start):
            raise TextFormatError(f"it is {name}: unpack or export it as JSON lines first")
    if head.startswith(UTF8_MARK):
        stream.read(len(UTF8_MARK))
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _Recoded(stream, "utf-16")
    elif len(head) > 1 and 0 in head[:2]:
        return _Recoded(stream, "utf-16-le" if head[1] == 0 else "utf-16-be")
    return stream


def json_records(lines: Lines, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Every JSON value with the number of the line where it begins: one per line, or, where the first line
    does not hold a whole one, the elements of an array, or values over several lines. Empty lines are left
    out. None stands for a line, or a value, that is longer than ``max_bytes``.
    """
    number, seen = 0, False
    while line := lines.readline(max_bytes):
        number += 1
        text = line.strip()
        is_whole = len(line) < max_bytes or line.endswith(b"\n")
        if not seen and text == b"{":
            following = lines.readline(max_bytes)
            if following.lstrip().startswith(b'"'):
                yield from _spread_values(line + following, lines, number, max_bytes)
                return
            yield number, text
            number, line, text = number + 1, following, following.strip()
        elif not seen and text.startswith(b"[") and not (is_whole and text.endswith(b"]")):
            yield from _spread_values(line, lines, number, max_bytes)
            return
        if text or not is_whole:
            seen = True
            yield number, text if is_whole else None
        while not is_whole:
            rest = lines.readline(CHUNK_BYTES)
            is_whole = not rest or rest.endswith(b"\n")


def _spread_values(
    read: bytes, lines: Lines, number: int, max_bytes: int
) -> Iterator[tuple[int, bytes | None]]:
    """Values wherever they begin and end; brackets around them are skipped."""
    decode = JSONDecoder().raw_decode
    utf8 = getincrementaldecoder("utf-8")("replace")
    text, position = utf8.decode(read), 0
    while True:
        start, found = position, VALUE.search(text, position)
        position = found.start() if found else len(text)
        number += text.count("\n", start, position)
        try:
            _, end = decode(text, position)
        except (JSONDecodeError, RecursionError) as error:
            text, position = text[position:], 0
            if len(text) > max_bytes or isinstance(error, RecursionError):
                yield number, None
                return
            if not (more := utf8.decode(_read(lines, max(len(text), CHUNK_BYTES)))):
                if text:
                    yield number, text.encode()
                return
            text += more
        else:
            yield number, text[position:end].encode()
            number += text.count("\n", position, end)
            position = end


def _read(lines: Lines, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0 and (part := lines.readline(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
