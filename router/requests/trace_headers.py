"""The headers by which a client's request belongs to a trace."""

from collections.abc import Mapping

MAX_BYTES = {b"traceparent": 128, b"tracestate": 1024}
"""Longer ones are left out: a request's trace is remembered with it. W3C's trace context has 55 bytes for the
one, and asks for 512 of the other."""


def trace_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Those of a request, by name."""
    return {
        name.decode(): headers[name].decode("latin-1")
        for name, most in MAX_BYTES.items()
        if name in headers and len(headers[name]) <= most
    }
