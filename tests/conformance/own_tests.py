"""vLLM's own server tests, straight at an engine with the small model and through a router.

    python -m tests.conformance.own_tests FOLDER [FILE ...]

The folder is the unpacked source distribution of the vLLM that is installed (``pip download --no-deps
--no-binary vllm vllm==VERSION``); files are those below its ``tests/entrypoints``, `FILES` by default. Its
tests are copied to a temporary folder, where they use the small model and one server for all. Both ways are
run at the same time. What passes straight at the engine must pass through the router, but for `REFUSED`: exit
code 1 when another one does not.
"""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.front import router_before
from tests.conformance.vllm_engine import vllm_engine
from tests.small_model import small_model

HERE = Path(__file__).parent
FILES = (
    *("openai", "anthropic/test_messages.py", "generate", "scale_out"),
    *("serve/tokenize/test_tokenization.py", "serve/instrumentator/test_basic.py"),
    "serve/instrumentator/test_orca_metrics.py",
)
LEFT_OUT = (
    *("correctness", "test_tensorizer_entrypoint.py", "test_mcp_tools.py", "test_harmony.py", "parser"),
    *("*multimodal*", "ec_integration", "test_launch_render.py"),
)
"""Need a download or another model."""
MODEL_LINE = re.compile(r'^(\w*MODEL\w*(?:: str)? = )"[^"]+"', re.MULTILINE)
OUTCOME = re.compile(r"^(tests/\S+?::.+?) (PASSED|FAILED|ERROR|SKIPPED) +\[", re.MULTILINE)
SECONDS = "60"
OPTIONS = (
    "--enable-scale-out",
    *("--override-generation-config", '{"temperature": 0, "max_new_tokens": 64}'),
)
"""What the tests ask for, and answers that are short and the same each time unless a test says otherwise."""
ENVIRONMENT = {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}
REFUSED = {
    "test_chat_completion.py::test_kv_transfer_prompt_token_ids_round_trip": "kv_transfer_params",
    "test_chat_completion.py::test_kv_transfer_prompt_token_ids_streaming": "kv_transfer_params",
}
"""Tests that do not pass through a router, and why: docs/conformance.md."""


async def run(folder: Path, files: Sequence[str]) -> int:
    """Run them both ways."""
    model = small_model()
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="vllm-tests-") as name:
        copy = Path(name)
        _copy(folder / "tests" / "entrypoints", copy / "tests", model)
        with vllm_engine(copy / "engine.log", *OPTIONS, names=("m", str(model))) as port:
            url = f"http://127.0.0.1:{port}"
            async with router_before(url, model, str(model), stored_responses="memory") as router:
                straight, through = await asyncio.gather(
                    *(_outcomes(copy, each, files) for each in (url, router.url))
                )
    passing = [test for test, outcome in straight.items() if outcome == "PASSED"]
    lost = [test for test in passing if through.get(test) != "PASSED"]
    for test in lost:
        sys.stdout.write(f"lost: {test}: {REFUSED.get(_short(test), 'unexplained')}\n")
    sys.stdout.write(
        f"{len(passing)} pass straight at the engine, {len(passing) - len(lost)} of them through the router\n"
    )
    return int(any(_short(test) not in REFUSED for test in lost))


def _short(test: str) -> str:
    return test.rpartition("/")[2].partition("[")[0]


def _copy(source: Path, target: Path, model: Path) -> None:
    """Copy tests, with the small model."""
    shutil.copytree(source, target / "entrypoints", ignore=shutil.ignore_patterns(*LEFT_OUT))
    for file in target.rglob("*.py"):
        file.write_text(MODEL_LINE.sub(rf'\1"{model}"', file.read_text()))
    (target / "__init__.py").touch()
    shutil.copy(HERE / "own_tests_shim.py", target / "utils.py")
    (target / "conftest.py").write_text("from tests.utils import pytest_collection_modifyitems\n")
    (target.parent / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")


async def _outcomes(folder: Path, url: str, files: Sequence[str]) -> dict[str, str]:
    """What became of each test at a server. The output stays in a file."""
    log = Path(tempfile.gettempdir()) / f"vllm-own-tests-{url.rpartition(':')[2]}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", "-v", "-rA", "--tb=short", "--timeout", SECONDS),
            *("-p", "no:cacheprovider", "-p", "no:schemathesis", "--continue-on-collection-errors"),
            *(f"tests/entrypoints/{file}" for file in files),
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "TESTED_URL": url, "HF_HUB_OFFLINE": "1"},
        )
        await process.wait()
    text = log.read_text(errors="replace")
    sys.stdout.write(f"{url}: {text.strip().splitlines()[-1]} ({log})\n")
    sys.stdout.flush()
    return dict(OUTCOME.findall(text))


if __name__ == "__main__":
    sys.exit(asyncio.run(run(Path(sys.argv[1]).resolve(), sys.argv[2:] or FILES)))
