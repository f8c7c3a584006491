"""The simulated engine's command line, for its supervised process."""

import os
import sys
from pathlib import Path

from workers.engines.supervisor import EngineCommand
from workers.engines.vllm_engine import EngineOptions

ROOT = str(Path(__file__).resolve().parents[2])
"""Where this package is importable from, installed or not."""


def sim_command(options: EngineOptions, host: str, port: int, sockets: Path, api_key: str) -> EngineCommand:
    """How to start one simulated engine on ``host:port``, with its KV events in the folder ``sockets``."""
    arguments = [
        *(sys.executable, "-m", "workers.sim.engine"),
        *("--model", options.model),
        *("--host", host, "--port", str(port)),
        *("--engines", "1"),
        *("--kv-endpoint", f"ipc://{sockets}/events"),
        *("--kv-replay-endpoint", f"ipc://{sockets}/replay"),
    ]
    if options.served_model_name:
        arguments += ["--served-model-name", options.served_model_name]
    if options.max_model_len:
        arguments += ["--max-model-len", str(options.max_model_len)]
    if options.block_size:
        arguments += ["--block-size", str(options.block_size)]
    if options.num_blocks:
        arguments += ["--num-blocks", str(options.num_blocks)]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))}
    if api_key:
        environment["WARMROUTE_SIM_API_KEY"] = api_key
    address = f"[{host}]" if ":" in host else host
    return EngineCommand([*arguments, *options.extra_arguments], environment, f"http://{address}:{port}")
