"""Records of finished requests, and clocks that tests set."""

from router.explain.misses import Reason
from router.history.record import RequestRecord
from router.http.sse import PromptTokensDetails, Usage

NOON = 1_700_006_400.0
"""A full hour, seconds since 1970."""


class Clock:
    """Shows what it is set to."""

    def __init__(self, now=NOON):
        self.now = now

    def __call__(self):
        return self.now


def finished(replica="a", prompt=100, cached=64, **changes):
    """A finished request; ``cached`` None is an engine that does not say."""
    details = None if cached is None else PromptTokensDetails(cached)
    values = {
        "model": "m",
        "outcome": "ok",
        "stream": True,
        "expected_cached_tokens": 70,
        "available_cached_tokens": 80,
        "usage": Usage(prompt, 5, details),
        "misses": None if cached is None else {Reason.TAIL: prompt - cached},
        "seconds_per_token": 0.001,
    }
    return RequestRecord(request_id="x", path="/", replica=replica, **{**values, **changes})
