"""A workload before it is played: how much work it is, and which loads are worth playing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cluster.errors import StartUpError
from loadtest.replay.source import WorkloadSource, workload_of
from loadtest.simulator.plan import Plan
from loadtest.simulator.profiles import EngineProfile
from loadtest.simulator.workload import Turn, Workload
from loadtest.workloads.bounds import estimated_order, pooled_hits

BUSY_SHARES = (0.45, 0.7, 0.85, 0.95)
"""Loads that are chosen keep the fleet about so busy: light to near saturation."""
CLOSE = 0.01
MOST_STEPS = 30
"""Of the search for a load. Clients who wait for answers cannot be made to send at any rate."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known in advance. Work is counted as if caching were as good as in one pooled cache."""

    requests: int
    prompt_tokens: float
    """Mean of a request."""
    answer_tokens: float
    """Mean of a request."""
    largest_blocks: int
    """That one request needs, prompt and answer."""
    bound_hit_rate: float
    """Of one pooled cache of the fleet's total size."""
    seconds: float
    """From the first to the last request at load 1."""
    busy_replicas: float
    """As many would be busy all the time at load 1."""
    loads: tuple[float, ...]
    busy_shares: tuple[float, ...]
    """Of the fleet's time, at each load."""
    change_load: float
    """The one in the middle."""
    change_times: tuple[float, float]
    """When one and two thirds of the requests have been sent at that load, in virtual seconds."""
    change_seconds: float
    """When the last request is sent at that load."""


def survey(source: WorkloadSource, plan: Plan, loads: Sequence[float], seed: int) -> Survey:
    """Look at a workload for a fleet; without ``loads``, choose them.

    Raises `StartUpError` when a request does not fit into a replica's cache.
    """
    ...
