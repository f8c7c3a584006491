"""vLLM's own server tests, straight at an engine with the small model and through a router.

    python -m tests.conformance.own_tests FOLDER [EXPRESSION]

The folder is the unpacked source distribution of the vLLM that is installed (``pip download --no-deps
--no-binary vllm vllm==VERSION``). Its tests are copied to a temporary folder, where they use the small model
and one server for all. Those that pass straight at the engine must pass through the router, but for
`REFUSED`. Exit code 1 when another one does not. An expression chooses tests, as pytest's ``-k`` does.
"""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from tests.conformance.front import router_before
from tests.conformance.vllm_engine import vllm_engine
from tests.small_model import small_model

HERE = Path(__file__).parent
FILES = (
    *("openai", "anthropic/test_messages.py", "serve/tokenize/test_tokenization.py"),
    *("serve/instrumentator/test_basic.py", "serve/instrumentator/test_orca_metrics.py"),
)
LEFT_OUT = ("correctness", "test_tensorizer_entrypoint.py", "test_mcp_tools.py", "test_harmony.py", "parser")
"""Need a download or another model."""
MODEL_LINE = re.compile(r'^(\w*MODEL\w*(?:: str)? = )"[^"]+"', re.MULTILINE)
PASSED = re.compile(r"^PASSED (\S.*)$", re.MULTILINE)
SECONDS = "60"
REFUSED = {
    "test_chat_completion.py::test_kv_transfer_prompt_token_ids_round_trip": "kv_transfer_params",
    "test_chat_completion.py::test_kv_transfer_prompt_token_ids_streaming": "kv_transfer_params",
}
"""Tests that do not pass through a router, and why: docs/conformance.md."""


async def run(folder: Path, expression: str) -> int:
    """Run them twice."""
    model = small_model()
    with tempfile.TemporaryDirectory(prefix="vllm-tests-") as name:
        copy = Path(name)
        files = _copied(folder / "tests" / "entrypoints", copy / "tests", model)
        with vllm_engine(copy / "engine.log", names=("m", str(model))) as port:
            straight = await _passed(copy, f"http://127.0.0.1:{port}", [*files, "-k", expression])
            async with router_before(f"http://127.0.0.1:{port}", model, str(model)) as router:
                through = await _passed(copy, router.url, straight)
    lost = [test for test in straight if test not in through]
    for test in lost:
        sys.stdout.write(f"lost: {test}: {REFUSED.get(_short(test), 'unexplained')}\n")
    sys.stdout.write(
        f"{len(straight)} pass straight at the engine, {len(through)} of them through the router\n"
    )
    return int(any(_short(test) not in REFUSED for test in lost))


def _short(test: str) -> str:
    return test.rpartition("/")[2].partition("[")[0]


def _copied(source: Path, target: Path, model: Path) -> list[str]:
    """Copy tests, with the small model; their paths in the copy."""
    shutil.copytree(source, target / "entrypoints", ignore=shutil.ignore_patterns(*LEFT_OUT))
    for file in target.rglob("*.py"):
        file.write_text(MODEL_LINE.sub(rf'\1"{model}"', file.read_text()))
    (target / "__init__.py").touch()
    shutil.copy(HERE / "own_tests_shim.py", target / "utils.py")
    (target / "conftest.py").write_text("from tests.utils import pytest_collection_modifyitems\n")
    (target.parent / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    return [f"tests/entrypoints/{file}" for file in FILES]


async def _passed(folder: Path, url: str, tests: list[str]) -> list[str]:
    """Those of these tests that pass at a server. The output stays in a file."""
    log = Path(tempfile.gettempdir()) / f"vllm-own-tests-{url.rpartition(':')[2]}.log"
    with log.open("wb") as output:
        process = await _pytest(folder, url, tests, output)
        await process.wait()
    text = log.read_text(errors="replace")
    sys.stdout.write(f"{url}: {text.strip().splitlines()[-1]} ({log})\n")
    sys.stdout.flush()
    return PASSED.findall(text)


async def _pytest(folder: Path, url: str, tests: list[str], output: BinaryIO) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-v", "-rA", "--tb=short", "--timeout", SECONDS),
        *("-p", "no:cacheprovider", "-p", "no:schemathesis", "--continue-on-collection-errors", *tests),
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "TESTED_URL": url, "HF_HUB_OFFLINE": "1"},
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(run(Path(sys.argv[1]).resolve(), " ".join(sys.argv[2:]))))
