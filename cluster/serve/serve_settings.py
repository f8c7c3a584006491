"""Settings of ``warmroute serve``, read from flags and environment (prefix ``WARMROUTE_``)."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field

from cluster.serve.model_files import default_cache_directory
from cluster.settings import ClusterSettings


class ServeSettings(ClusterSettings):
    """What to serve, with how many replicas, where."""

    redis_url: str = Field(
        "", validation_alias=AliasChoices("redis_url", "REDIS_URL", "WARMROUTE_REDIS_URL"), repr=False
    )
    """A Redis to use (also REDIS_URL); empty starts one that ends with this process."""
    model: str = ""
    """Directory of a Hugging Face model; empty takes the small model that comes with the CPU installation."""
    model_name: str = ""
    """The name clients use; by default the last part of the model's directory."""
    engine: Literal["vllm", "sim"] = "vllm"
    """vllm, or sim for a simulated engine."""
    replicas: int = Field(2, ge=1, le=1024)
    """Number of engines."""
    host: str = "127.0.0.1"
    """Address of the router."""
    port: int = Field(8000, ge=1, le=65535)
    """Port of the router."""
    blocks: int = Field(0, ge=0)
    """KV blocks per replica; 0 lets the engine choose (1 GiB without a GPU)."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of each engine; by default one where this machine has any. With several: ``--engine-arguments
    "--tensor-parallel-size N"``."""
    engine_arguments: str = ""
    """Further arguments for the engine's command line."""
    max_model_len: int = Field(0, ge=0)
    """Tokens of prompt and answer; 0 takes the model's own limit."""
    policy: str = ""
    """How replicas are chosen; empty takes the router's own setting."""
    ray_address: str = ""
    """A running Ray cluster to use; empty starts one that ends with this process."""
    start_seconds: float = Field(900.0, gt=0)
    """How long all of it may take to become ready."""
    cache_directory: Path = Field(default_factory=default_cache_directory)
