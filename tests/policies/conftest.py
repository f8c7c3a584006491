"""Builds what policies see."""

import numpy as np
import pytest

from policies.types import Request, Snapshot


def _snapshot(cached, queued=None, running=None, eligible=None, number=0, names=None):
    size = len(cached)
    return Snapshot(
        replicas=tuple(names or (f"replica-{row}" for row in range(size))),
        eligible=np.array([True] * size if eligible is None else eligible, dtype=np.bool_),
        cached_tokens=np.array(cached, dtype=np.int64),
        queued_tokens=np.array([0] * size if queued is None else queued, dtype=np.int64),
        running=np.array([0] * size if running is None else running, dtype=np.int64),
        number=number,
    )


def _request(prompt=1000, opening=0, key=7):
    return Request(prompt_tokens=prompt, opening_tokens=opening, conversation_key=key)


@pytest.fixture(scope="session")
def snapshot_of():
    """Makes a snapshot from plain lists."""
    return _snapshot


@pytest.fixture(scope="session")
def request_of():
    """Makes a request."""
    return _request
