"""Settings of the simulated engines: command line, ``WARMROUTE_SIM_…`` variables, then these defaults."""

from collections.abc import Sequence
from typing import Self

from pydantic import DirectoryPath, Field, FilePath, ValidationError, model_validator
from pydantic_settings import CliApp, SettingsConfigDict

from cluster.errors import StartUpError
from cluster.settings import EnvironmentSettings


class SimSettings(EnvironmentSettings):
    """One process of simulated engines that serve the same model."""

    model_config = SettingsConfigDict(
        env_prefix="WARMROUTE_SIM_",
        frozen=True,
        extra="forbid",
        cli_prog_name="python -m workers.sim.engine",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    model: DirectoryPath = Field(description="directory with the model's tokenizer and chat template")
    served_model_name: str = Field("", description="name in the API; the directory by default")
    alias: tuple[str, ...] = Field((), description="further names of the same model")
    lora: tuple[str, ...] = Field((), description="names of adapters, served as further models")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="port of the first engine; 0: given by the system")
    engines: int = Field(1, ge=1, le=1000, description="number of engines, on consecutive ports")
    api_key: str = Field("", description="required as a bearer token under /v1 unless empty")
    block_size: int = Field(16, ge=1, le=4096, description="tokens per KV block")
    num_blocks: int = Field(6000, ge=2, description="KV blocks of each engine")
    max_model_len: int = Field(32_768, ge=2, description="prompt and answer together, in tokens")
    max_num_seqs: int = Field(256, ge=1, description="running requests per engine")
    max_num_batched_tokens: int = Field(2048, ge=1, description="tokens computed per step")
    prefill_rate: float = Field(12_000, gt=0, description="prompt tokens computed per second")
    step_ms: float = Field(10, ge=0.1, description="least duration of a step")
    decode_ms: float = Field(0.1, ge=0, description="added to a step per sequence that decodes")
    answer_tokens: int = Field(0, ge=0, description="longest answer; 0: as long as it may be")
    script: FilePath | None = Field(
        None, description="JSON file: tools to call, in this order, where requests offer them"
    )
    dev_mode: bool = Field(False, description="offer /sleep, /wake_up and /is_sleeping")
    lora_updating: bool = Field(False, description="offer /v1/load_lora_adapter and its opposite")
    kv_events: bool = Field(True, description="publish KV cache events over ZeroMQ")
    kv_endpoint: str = Field("tcp://127.0.0.1:0", description="where events are published")
    kv_replay_endpoint: str = Field("tcp://127.0.0.1:0", description="where missed events are replayed")
    kv_buffer_steps: int = Field(10_000, ge=1, description="batches of events kept for replay")

    @model_validator(mode="after")
    def _check_ports(self) -> Self:
        if self.port and self.port + self.engines > 65536:
            raise ValueError("port + engines goes past port 65535")
        return self

    @property
    def context_limit(self) -> int:
        """Longest prompt and answer: what the cache holds, as with vLLM's ``--max-model-len auto``."""
        return min(self.max_model_len, self.num_blocks * self.block_size)

    @property
    def model_name(self) -> str:
        """The name that requests give."""
        return self.served_model_name or str(self.model)

    @property
    def model_names(self) -> tuple[str, ...]:
        """All that requests may give."""
        return (self.model_name, *self.alias)

    def endpoint_of(self, engine: int, endpoint: str) -> str:
        """A KV endpoint of one engine: TCP ports count up, other addresses get the engine's number."""
        if not endpoint.startswith("tcp://"):
            return f"{endpoint}.{engine}"
        address, _, port = endpoint.rpartition(":")
        return f"{address}:{int(port) + engine if int(port) else 0}"


def read_settings(arguments: Sequence[str]) -> SimSettings:
    """Settings from a command line. Raises `StartUpError` that names what is wrong."""
    try:
        return CliApp.run(SimSettings, cli_args=list(arguments))
    except ValidationError as error:
        raise StartUpError("; ".join(map(_complaint, error.errors()))) from error


def _complaint(error: object) -> str:
    assert isinstance(error, dict)
    field = ".".join(str(part) for part in error["loc"])
    option = f"--{field.replace('_', '-')}: " if field else ""
    return f"{option}{error['msg']}"
