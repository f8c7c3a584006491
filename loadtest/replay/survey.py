"""A workload before it is played: where it comes from, how much work it is, and which loads to play.

Work is estimated as if caching were as good as in one pooled cache, and every engine step full. So it is the
least that any routing can reach.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.errors import StartUpError
from loadtest.scenarios.scenario import load_scenario
from loadtest.simulator.plan import Plan
from loadtest.simulator.workload import Workload
from loadtest.workloads.bounds import estimated_order, pooled_hits
from loadtest.workloads.catalog import WORKLOADS
from loadtest.workloads.trace import read_trace
from loadtest.workloads.trace_rows import TOKENS_PER_ID, TimeUnit, trace_name


@dataclass(frozen=True, slots=True)
class WorkloadSource:
    """A trace, a scenario file (``.toml``), or a generated workload by name. What follows is for traces (see
    `read_trace`).
    """

    origin: Path | str
    block_size: int = 16
    length_scale: float = 1.0
    first: int = 0
    last: int | None = None
    tokens_per_id: int = TOKENS_PER_ID
    time_unit: TimeUnit = "auto"

    @property
    def name(self) -> str:
        """The name of the workload."""
        return trace_name(self.origin) if isinstance(self.origin, Path) else self.origin

    def build(self, seed: int) -> Workload:
        """All requests. Raises `StartUpError` for a file that cannot be read."""
        if isinstance(self.origin, str):
            return WORKLOADS[self.origin](seed)
        try:
            if self.origin.suffix == ".toml":
                return load_scenario(self.origin).workload(seed)
            return read_trace(
                self.origin,
                block_size=self.block_size,
                length_scale=self.length_scale,
                first=self.first,
                last=self.last,
                seed=seed,
                tokens_per_id=self.tokens_per_id,
                time_unit=self.time_unit,
            )
        except OSError as error:
            raise StartUpError(f"cannot read {self.origin}: {error.strerror}") from error
        except ValueError as error:
            raise StartUpError(str(error)) from error


@lru_cache(maxsize=1)
def workload_of(source: WorkloadSource, seed: int) -> Workload:
    """Build once for all runs in a row; one at a time, since long traces take hundreds of megabytes."""
    return source.build(seed)


CHOSEN_SHARES = (0.45, 0.7, 0.85, 0.95)
"""Shares of the fleet's capacity: light to near saturation."""
PRECISION = 0.01
MOST_STEPS = 30
"""Precision of the search for a load. Clients that wait for answers cannot be made to send at any rate."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a workload and a fleet before anything is played."""

    requests: int
    prompt_tokens: float
    """Mean of all requests."""
    answer_tokens: float
    """Mean of all requests."""
    largest_blocks: int
    """The most that one request needs, for prompt and answer."""
    bound_hit_rate: float | None
    """The hit rate of one pooled cache of the fleet's size. None when the order of requests depends on the
    load, as where clients think between turns: so does then what one cache would hold."""
    seconds: float
    """The time from the first to the last request at load 1."""
    num_replicas_of_work: float
    """So many replicas have enough to do at load 1, in the busiest half."""
    loads: tuple[float, ...]
    shares: tuple[float, ...]
    """The share of the fleet's capacity, at each load."""
    middle_load: float
    middle_thirds: tuple[float, float]
    """When one and two thirds of the requests have been sent at the middle load, in virtual seconds."""
    middle_seconds: float
    """When the last request is sent at the middle load."""


def survey(source: WorkloadSource, plan: Plan, loads: Sequence[float], seed: int) -> Survey:
    """Look at a workload for a fleet; where no loads are given, choose them.

    Raises `StartUpError` for a trace that cannot be read, and when a request needs more than a whole cache.
    """
    workload = workload_of(source, seed)
    turns = [turn for session in workload.sessions for turn in session.turns]
    lengths = [turn.prompt_tokens + turn.output_tokens for turn in turns]
    largest_blocks = -(-max(lengths) // workload.block_size)
    if largest_blocks > plan.profile.num_blocks:
        too_large = sum(length > plan.profile.num_blocks * workload.block_size for length in lengths)
        raise StartUpError(
            f"{too_large:,} of {len(turns):,} requests do not fit into the KV cache of a replica, which has "
            f"{plan.profile.num_blocks:,} blocks: --blocks {largest_blocks} would hold the largest"
        )
    demand = _Demand(workload, plan)
    loads = tuple(loads) or demand.chosen_loads()
    middle_load = loads[(len(loads) - 1) // 2]
    starts = demand.starts(middle_load)
    first_third, second_third = np.quantile(starts, [1 / 3, 2 / 3]).tolist()
    return Survey(
        requests=len(turns),
        prompt_tokens=demand.prompt_tokens / len(turns),
        answer_tokens=demand.answer_tokens / len(turns),
        largest_blocks=largest_blocks,
        bound_hit_rate=demand.hit_tokens / demand.prompt_tokens
        if len(turns) == len(workload.sessions)
        else None,
        seconds=float(np.ptp(demand.starts(1.0))),
        num_replicas_of_work=demand.replicas_of_work(1.0),
        loads=loads,
        shares=tuple(demand.share(load) for load in loads),
        middle_load=middle_load,
        middle_thirds=(first_third, second_third),
        middle_seconds=float(starts[-1]),
    )


class _Demand:
    """What a workload asks of a fleet."""

    def __init__(self, workload: Workload, plan: Plan) -> None:
        self._workload = workload
        self._fleet_speed = sum(1 / plan.slow.get(number, 1.0) for number in range(plan.replicas))
        profile = plan.profile
        self.prompt_tokens = self.answer_tokens = self.hit_tokens = 0
        context_seconds = 0.0
        for _, turn, hits in pooled_hits(workload, plan.replicas * profile.num_blocks):
            self.prompt_tokens += turn.prompt_tokens
            self.answer_tokens += turn.output_tokens
            self.hit_tokens += hits
            # Each computed token reads all before it.
            context_seconds += profile.prefill_context_seconds * (turn.prompt_tokens**2 - hits**2) / 2
            end = turn.prompt_tokens + turn.output_tokens / 2
            context_seconds += profile.decode_context_seconds * turn.output_tokens * end
        computed = self.prompt_tokens - self.hit_tokens
        steps = max(computed / profile.max_batched_tokens, self.answer_tokens / profile.max_num_seqs)
        self._work_seconds = (
            computed * profile.prefill_seconds
            + self.answer_tokens * profile.decode_seconds
            + steps * profile.step_seconds
            + context_seconds
        )

    def starts(self, load: float) -> NDArray[np.float64]:
        """When requests are sent, in order; those that wait for an answer by a rough estimate."""
        return np.array([start for start, _ in estimated_order(self._workload.faster(load))])

    def replicas_of_work(self, load: float) -> float:
        """So many replicas of full speed have enough to do in the shortest time in which half of all requests
        are sent: the beginning and the end of a workload may be thin.
        """
        starts = self.starts(load)
        half = len(starts) // 2
        seconds = float((starts[half:] - starts[: len(starts) - half]).min())
        return self._work_seconds * half / len(starts) / seconds if seconds else float("inf")

    def share(self, load: float) -> float:
        """The share of the fleet's capacity."""
        return self.replicas_of_work(load) / self._fleet_speed

    def chosen_loads(self) -> tuple[float, ...]:
        """The loads that take the wanted shares of the fleet's capacity; 1 for a share that none takes."""
        found = [self._load_with(share) or 1.0 for share in CHOSEN_SHARES]
        return tuple(sorted({float(f"{load:.3g}") for load in found}))

    def _load_with(self, wanted: float) -> float | None:
        load = 1.0
        for _ in range(MOST_STEPS):
            share = self.share(load)
            if abs(share / wanted - 1) <= PRECISION:
                return load
            load *= wanted / share
            if not 0 < load < float("inf"):
                break
        return None
