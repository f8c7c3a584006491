"""Logging: structlog, one JSON object per line on standard error, or coloured lines on a terminal.

What the standard library, its users and the interpreter itself have to say goes the same way
(`cluster.log_sink`): nothing else of a running process writes to standard error.
"""

import io
import logging
import os
import sys
import threading
import time
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from cluster.log_sink import LogSink

MAX_LINE = 16 * 1024
"""Characters; the texts of a longer line are cut."""
DROPPING_SECONDS = 5.0
"""How long after a lost line the log counts as losing some."""

_encoder = msgspec.json.Encoder(enc_hook=repr)
_sink: LogSink | None = None


def configure_logging(level: str = "info", json: bool | None = None) -> None:
    """Set up logging for this process. ``json`` defaults to whether standard error is not a terminal."""
    global _sink
    as_json = not (sys.stderr and sys.stderr.isatty()) if json is None else json
    render = _Renderer(as_json)
    sink = _sink = LogSink(_standard_error(), render.notice)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _SinkLogger(sink),
        cache_logger_on_first_use=True,
    )
    _redirect_others()


def num_lines_dropped() -> int:
    """How many lines could not be written since the process started."""
    return _sink.num_dropped if _sink is not None else 0


def is_dropping_lines() -> bool:
    """Whether a line was lost just now."""
    return _sink is not None and time.monotonic() - _sink.dropped_at < DROPPING_SECONDS


class _SinkLogger:
    """What structlog calls with a rendered line."""

    def __init__(self, sink: LogSink) -> None:
        self.msg = self.log = self.debug = self.info = self.warning = self.warn = sink.write
        self.error = self.err = self.critical = self.fatal = self.failure = self.exception = sink.write


class _Renderer:
    """The last of structlog's processors: makes a bounded line of an event, whatever is in it."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._render: Processor = _render_json if as_json else structlog.dev.ConsoleRenderer()
        self._stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)

    def __call__(self, logger: Any, method: str, event: EventDict) -> str:
        """The line of an event."""
        try:
            if self._as_json:
                event = structlog.processors.format_exc_info(logger, method, event)
            line = str(self._render(logger, method, event))
            limit = MAX_LINE
            while len(line) > MAX_LINE and limit > 1:
                limit //= 2
                line = str(self._render(logger, method, _cut(event, limit)))
        except Exception as error:  # an object whose repr() fails, text that is no Unicode: anything at all
            text = ascii(event.get("event"))[:200]
            return _encoder.encode({"event": text, "unreadable": type(error).__name__}).decode()
        return line

    def notice(self, num_dropped: int) -> str:
        """The line that says how many lines are missing."""
        event: EventDict = {"event": "log_lines_dropped", "count": num_dropped, "level": "warning"}
        return self(None, "warning", dict(self._stamp(None, "warning", event)))


def _render_json(_logger: object, _method: str, event: EventDict) -> str:
    """Half of what structlog's own costs, and it is most of the price of a line."""
    return _encoder.encode(event).decode()


def _cut(event: EventDict, limit: int) -> EventDict:
    """The same with no text of more than ``limit`` characters. Of a traceback the end says most."""
    return {name: _cut_text(value, limit, tail=name == "exception") for name, value in event.items()}


def _cut_text(value: Any, limit: int, tail: bool) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else _encoder.encode(value).decode()
    if len(text) <= limit:
        return value
    return f"… {text[-limit:]}" if tail else f"{text[:limit]} …"


def _standard_error() -> int:
    """Its descriptor, where lines that nobody can take are lost."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, io.UnsupportedOperation, ValueError):  # closed, or replaced by something else
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


class _FromStandardLibrary(logging.Handler):
    """Passes on what others log: uvicorn, asyncio, redis, warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one on."""
        try:
            message = record.getMessage()
        except Exception as error:  # arguments that do not fit the text: whoever logs it must not fail
            message = f"{record.msg!r:.200} ({type(error).__name__})"
        structlog.get_logger().log(
            min(record.levelno, logging.CRITICAL) // 10 * 10 or logging.DEBUG,
            message,
            logger=record.name,
            exc_info=record.exc_info or None,
        )


def _redirect_others() -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) in (logging.StreamHandler, _FromStandardLibrary):
            root.removeHandler(handler)
    root.addHandler(_FromStandardLibrary())
    logging.raiseExceptions = False  # what a handler cannot do would be said on standard error
    logging.captureWarnings(True)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _note_unraisable
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _note_thread


def _note_unraisable(error: "sys.UnraisableHookArgs") -> None:
    structlog.get_logger().error(
        "exception_ignored", where=repr(error.object)[:200], exc_info=error.exc_value or error.exc_type
    )


def _note_thread(error: threading.ExceptHookArgs) -> None:
    structlog.get_logger().error("thread_failed", exc_info=error.exc_value or error.exc_type)
