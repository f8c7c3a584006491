"""What ``warmroute doctor`` is asked for, read from flags and environment (prefix ``WARMROUTE_``)."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from cluster.settings import EnvironmentSettings


class DoctorSettings(EnvironmentSettings):
    """Which log, with which model's eyes, and how to report."""

    log: str = Field(min_length=1)
    """A file, plain or gzipped, or "-" for standard input."""
    model: Path | None = None
    """Directory of the model the log is for; otherwise a small one stands in."""
    block_size: int = Field(16, ge=1, le=4096)
    """Tokens per KV block."""
    kv_memory: float = Field(16.0, gt=0, le=100_000, allow_inf_nan=False)
    """GiB of KV cache on one replica, for sizing."""
    format: Literal["text", "json", "html"] = "text"
    """text, json or html."""
    output: Path | None = None
    """File of the report; otherwise standard output."""
