"""Logging: structlog, one JSON object per line on standard error, or coloured lines on a terminal."""

import logging
import sys
from typing import Any

import msgspec
import structlog

_encoder = msgspec.json.Encoder(enc_hook=repr)


def configure_logging(level: str = "info", json: bool | None = None) -> None:
    """Set up structlog for this process. ``json`` defaults to whether standard error is not a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if as_json else _keep,
            structlog.processors.JSONRenderer(_json) if as_json else structlog.dev.ConsoleRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _json(event: structlog.typing.EventDict, **_: Any) -> str:
    """Twice as fast as structlog's own, which is half the cost of a line."""
    return _encoder.encode(event).decode()


def _keep(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event
