"""Settings of agents and of the engines they stand beside, read once from flags and environment."""

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from cluster.settings import ClusterSettings, name_pairs


class WorkerSettings(ClusterSettings):
    """How an agent follows its engine and how a supervised engine is kept alive."""

    labels: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    """NAME=VALUE pairs, separated by commas, such as ``region=eu``: API keys may ask for replicas by them."""
    log_length: int = Field(10_000, ge=100, le=1_000_000)
    """Batches that Redis keeps for routers that catch up."""

    engine_poll_seconds: float = Field(0.5, gt=0, le=60)
    """How often the engine's gauges and LoRA adapters are read; each reading is also the health check."""
    engine_timeout_seconds: float = Field(2.0, gt=0, le=60)
    engine_failures: int = Field(3, ge=1, le=100)
    """Readings in a row that may time out before the replica is unreachable. A refused one is enough."""
    rediscover_seconds: float = Field(5.0, gt=0, le=600)
    """How often an engine is asked for what seldom changes: its model, KV events it did not publish."""

    event_check_seconds: float = Field(1.0, gt=0, le=60)
    """After this long without a KV event the engine is asked whether one was lost."""
    replay_timeout_seconds: float = Field(2.0, gt=0, le=60)
    """How long the next batch of a replay may take."""
    event_queue: int = Field(10_000, ge=10, le=1_000_000)
    """KV event batches that may wait to be read; what does not fit is lost and asked for again."""
    max_blocks: int = Field(4_000_000, ge=1000)
    """Bound of the mirror when the engine does not say how many blocks it has."""
    max_parked_blocks: int = Field(20_000, ge=1)
    """Blocks that may wait for their parent to become known; beyond it the oldest are given up."""
    alarm_seconds: float = Field(300.0, gt=0)
    """How long an alarm about something that is over stays in the lease."""
    retry_seconds: float = Field(0.1, gt=0, le=10)
    """First pause after Redis or the engine did not answer; it doubles up to `retry_limit_seconds`."""
    retry_limit_seconds: float = Field(0.5, gt=0, le=60)
    """Short, because a Redis that comes back empty is complete only once every agent has published again."""

    start_seconds: float = Field(600.0, gt=0)
    """How long an engine may take from its start until it is healthy."""
    stop_seconds: float = Field(15.0, gt=0, le=600)
    """How long an engine may take to stop before it is killed."""
    drain_seconds: float = Field(30.0, ge=0, le=3600)
    """How long running requests may take to finish when a replica stops."""
    restart_limit: int = Field(5, ge=0, le=1000)
    """Restarts in a row of an engine that dies before it has been healthy for `restart_reset_seconds`."""
    restart_reset_seconds: float = Field(60.0, gt=0)
    restart_pause_seconds: float = Field(0.5, ge=0)
    """Pause before the first restart; it doubles up to a minute."""
    engine_log_megabytes: float = Field(20.0, gt=0, le=10_000)
    """Size at which an engine's log file is put aside; one older file is kept."""

    @field_validator("labels", mode="before")
    @classmethod
    def _of_names(cls, value: object) -> object:
        return dict(name_pairs(value)) if isinstance(value, str) else value
