"""A real engine with the small model, which serves it under a few names."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.process.bound_child import bound_command
from tests.conformance.comparison import ask
from tests.hostile.raw_request import RawRequest
from tests.integration.system import end, free_port
from tests.small_model import small_model

CONTEXT = 4096
START_SECONDS = 600.0
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


@contextmanager
def vllm_engine(log: Path, *options: str, names: Sequence[str] = ("m",)) -> Iterator[int]:
    """Its port, once it is healthy; it writes to ``log``."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(small_model())),
        *("--served-model-name", *names, "--host", "127.0.0.1", "--port", str(port)),
        *("--enforce-eager", "--enable-prompt-tokens-details", "--max-model-len", str(CONTEXT)),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes", *options),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            bound_command(command, signal.SIGTERM),  # killed, it would leave its core behind
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_healthy(port):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, f"not healthy within {START_SECONDS:g} s"
            time.sleep(1)
        yield port
    finally:
        end(process)


def _is_healthy(port: int) -> bool:
    with suppress(OSError):
        return ask(port, RawRequest("GET", "/health")).status == 200
    return False
