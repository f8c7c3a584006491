"""Where the requests of a replay come from. Small, so that every worker process can build them itself."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cluster.errors import StartUpError
from loadtest.scenarios.scenario import load_scenario
from loadtest.simulator.workload import Workload
from loadtest.workloads.catalog import WORKLOADS
from loadtest.workloads.trace import read_trace


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

    @property
    def name(self) -> str:
        """Of the workload."""
        return self.origin.stem if isinstance(self.origin, Path) else self.origin

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
            )
        except OSError as error:
            raise StartUpError(f"cannot read {self.origin}: {error.strerror}") from error
        except ValueError as error:
            raise StartUpError(str(error)) from error


@lru_cache(maxsize=1)
def workload_of(source: WorkloadSource, seed: int) -> Workload:
    """Build once for all runs in a row; one at a time, since long traces take hundreds of megabytes."""
    return source.build(seed)
