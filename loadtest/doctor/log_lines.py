"""Reads a log line by line: plain, gzipped or from standard input, however long it is."""

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from cluster.errors import ClusterError

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is broken."""
CHUNK_BYTES = 1024 * 1024


class LogError(ClusterError):
    """The log cannot be read, or holds no request."""


class LogLines:
    """The lines of one log."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        """Bytes on disk; 0 when that is not known."""
        self.bytes_read = 0
        """How many of the bytes on disk have been read."""
        self.text_bytes = 0
        """Bytes of text, after decompression."""
        self.cut_off = ""
        """Why reading stopped before the end of the log; "" when it did not."""
        if path != "-":
            try:
                self.size = Path(path).stat().st_size
            except OSError as error:
                raise LogError(f"cannot read {path}: {error.strerror}") from error

    def __iter__(self) -> Iterator[bytes | None]:
        """All lines without their ends; None for one that is too long."""
        try:
            with self._open() as (raw, stream):
                for line in _lines(stream):
                    self.text_bytes += len(line or b"")
                    self.bytes_read = raw.tell() if raw is not None else self.text_bytes
                    yield line
        except (OSError, EOFError, zlib.error) as error:
            if not self.text_bytes:
                raise LogError(f"cannot read {self.path}: {error}") from error
            self.cut_off = str(error)

    @contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO | None, BinaryIO]]:
        if self.path == "-":
            yield None, sys.stdin.buffer
            return
        with Path(self.path).open("rb") as raw:
            if raw.peek(2)[:2] != b"\x1f\x8b":
                yield raw, raw
                return
            with gzip.open(raw) as stream:
                yield raw, cast(BinaryIO, stream)


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line.strip()
            continue
        while (rest := stream.readline(CHUNK_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None
