"""Builds what policies see."""

import numpy as np
import pytest

from policies.types import Request, Snapshot


def _snapshot(
    cached,
    queued=None,
    running=None,
    active=None,
    eligible=None,
    number=0,
    names=None,
    last_replica=-1,
    pace=None,
):
    size = len(cached)

    def read_only(values, dtype, default):
        array = np.array([default] * size if values is None else values, dtype=dtype)
        array.flags.writeable = False
        return array

    return Snapshot(
        replicas=tuple(names or (f"replica-{row}" for row in range(size))),
        eligible=read_only(eligible, np.bool_, True),
        cached_tokens=read_only(cached, np.int64, 0),
        queued_tokens=read_only(queued, np.int64, 0),
        running=read_only(running, np.int64, 0),
        active_tokens=read_only(active, np.int64, 0),
        pace=read_only(pace, np.float64, 1.0),
        number=number,
        last_replica=last_replica,
    )


def _request(prompt=1000, opening=0, key=7):
    return Request(prompt_tokens=prompt, opening_tokens=opening, conversation_key=key)


@pytest.fixture(scope="session")
def snapshot_of():
    """Makes a snapshot from plain lists. Nobody can write to it."""
    return _snapshot


@pytest.fixture(scope="session")
def request_of():
    """Makes a request."""
    return _request
