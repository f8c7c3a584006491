"""The demonstration model: converted once, whole or not at all, with errors that say what to do."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from cluster.errors import StartUpError
from cluster.prompts.tokenizer import PromptTokenizer
from cluster.serve import model_files
from cluster.serve.model_files import (
    EXPECTED_FILES,
    MODEL_NAME,
    TOKENIZER_FILES,
    default_cache_directory,
    ensure_demo_model,
)

WRITES_A_MODEL = """
    import pathlib, sys
    source, target, count = sys.argv[1:]
    with open(count, "a") as file: file.write("x")
    print("::stage::0"); print("noise of a library"); print("::stage::1")
    pathlib.Path(target).mkdir()
    for name in {files}: (pathlib.Path(target) / name).write_text("{{}}")
"""


@pytest.fixture
def converter(tmp_path, monkeypatch):
    """Replaces the conversion by a script; returns the file in which its runs are counted."""
    packed = tmp_path / "packed.gguf"
    packed.write_bytes(b"GGUF")
    count = tmp_path / "count"
    monkeypatch.setattr(model_files, "_packaged_model", lambda: packed)

    def install(script: str):
        code = textwrap.dedent(script)
        command = [sys.executable, "-u", "-c", code]
        monkeypatch.setattr(
            model_files, "_conversion_command", lambda source, target: [*command, source, target, count]
        )
        return count

    return install


def left_behind(cache):
    """What is in the models folder, without lock files."""
    return sorted(path.name for path in (cache / "models").iterdir() if not path.name.endswith(".lock"))


def test_a_model_that_is_there_is_used(tmp_path, monkeypatch):
    """A second start looks at the files and at nothing else: not even the package is needed any more."""
    folder = tmp_path / "models" / MODEL_NAME
    folder.mkdir(parents=True)
    for name in EXPECTED_FILES:
        (folder / name).touch()
    monkeypatch.setattr(model_files, "PACKAGE", "no_such_package")
    assert ensure_demo_model(tmp_path, pytest.fail) == folder


def test_the_first_start_converts_and_says_how_far_it_is(tmp_path, converter):
    """Stages are reported as they begin; what libraries print is not."""
    converter(WRITES_A_MODEL.format(files=EXPECTED_FILES))
    said = []
    folder = ensure_demo_model(tmp_path, said.append)
    assert all((folder / name).is_file() for name in EXPECTED_FILES)
    assert "step 1 of 4" in said[0]
    assert "step 2 of 4" in said[1]
    assert said[-1].startswith(f"converted {MODEL_NAME} in")
    assert not any("noise" in line for line in said)
    assert left_behind(tmp_path) == [MODEL_NAME]


def test_a_long_stage_is_reported_again(tmp_path, converter, monkeypatch):
    """Somebody who waits sees that something goes on."""
    monkeypatch.setattr(model_files, "REPORT_EVERY_SECONDS", 0.1)
    converter("import time; print('::stage::1'); time.sleep(0.8)")
    said = []
    with pytest.raises(StartUpError, match="incomplete"):
        ensure_demo_model(tmp_path, said.append)
    assert sum("step 2 of 4" in line for line in said) >= 3


def test_a_failed_conversion_leaves_nothing_and_shows_why(tmp_path, converter):
    """The next start begins afresh."""
    converter("import sys; sys.exit('the file is damaged')")
    with pytest.raises(StartUpError, match=r"(?s)exit 1.*the file is damaged"):
        ensure_demo_model(tmp_path, lambda _: None)
    assert left_behind(tmp_path) == []


def test_a_conversion_that_hangs_is_given_up(tmp_path, converter, monkeypatch):
    """No wait is without limit."""
    monkeypatch.setattr(model_files, "CONVERSION_SECONDS", 0.5)
    monkeypatch.setattr(model_files, "REPORT_EVERY_SECONDS", 0.1)
    converter("import time; time.sleep(60)")
    with pytest.raises(StartUpError, match="took longer"):
        ensure_demo_model(tmp_path, lambda _: None)
    assert left_behind(tmp_path) == []


def test_what_an_interrupted_start_left_is_repaired(tmp_path, converter):
    """Half a model, from a deleted file or a killed start, is replaced, and old scratch folders go."""
    converter(WRITES_A_MODEL.format(files=EXPECTED_FILES))
    (tmp_path / "models" / MODEL_NAME).mkdir(parents=True)
    (tmp_path / "models" / f".{MODEL_NAME}-abc").mkdir()
    folder = ensure_demo_model(tmp_path, lambda _: None)
    assert (folder / "model.safetensors").is_file()
    assert left_behind(tmp_path) == [MODEL_NAME]


def test_two_starts_convert_once(tmp_path, converter):
    """The second waits, says so, and uses what the first made."""
    count = converter(
        "import time; time.sleep(0.5)\n" + textwrap.dedent(WRITES_A_MODEL.format(files=EXPECTED_FILES))
    )
    said = []
    starts = [threading.Thread(target=ensure_demo_model, args=(tmp_path, said.append)) for _ in range(2)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert count.read_text() == "x"
    assert any("waiting for another start" in line for line in said)


def test_a_missing_package_says_what_to_do(tmp_path, monkeypatch):
    """The model comes with the lock file."""
    monkeypatch.setattr(model_files, "PACKAGE", "no_such_package")
    with pytest.raises(StartUpError, match=r"no-such-package is not installed.*infra/setup\.py"):
        ensure_demo_model(tmp_path, lambda _: None)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, converter):
    """The error names the place."""
    converter("")
    (tmp_path / "file").touch()
    with pytest.raises(StartUpError, match=r"cannot write the model to .*file"):
        ensure_demo_model(tmp_path / "file", lambda _: None)


def test_the_cache_is_the_users_unless_models_are_here(tmp_path, monkeypatch):
    """Or it is named: WARMROUTE_CACHE_DIR moves it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WARMROUTE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_cache_directory() == tmp_path / "cache" / "warmroute"
    (tmp_path / ".warmroute" / "models").mkdir(parents=True)
    assert default_cache_directory() == tmp_path / ".warmroute"
    monkeypatch.setenv("WARMROUTE_CACHE_DIR", "/somewhere/else")
    assert str(default_cache_directory()) == "/somewhere/else"


def test_without_weights_only_the_tokenizer_is_converted(tmp_path, converter):
    """Unless the whole model is there; the folder bears the model's name, as clients see it."""
    converter(WRITES_A_MODEL.replace("sys.argv[1:]", "sys.argv[1:4]").format(files=TOKENIZER_FILES))
    said = []
    folder = ensure_demo_model(tmp_path, said.append, weights=False)
    assert folder == tmp_path / "tokenizers" / MODEL_NAME
    assert "step 1 of 2" in said[0]
    assert ensure_demo_model(tmp_path, pytest.fail, weights=False) == folder
    whole = tmp_path / "models" / MODEL_NAME
    whole.mkdir(parents=True)
    for name in EXPECTED_FILES:
        (whole / name).touch()
    assert ensure_demo_model(tmp_path, pytest.fail, weights=False) == whole


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_the_packaged_tokenizer_is_the_models_own(tmp_path):
    """The real conversion without weights: a tokenizer with its chat template, and the sizes of the model."""
    folder = ensure_demo_model(tmp_path, lambda _: None, weights=False)
    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], config["num_hidden_layers"]) == ("bfloat16", 30)
    rendered = PromptTokenizer(folder).chat({"messages": [{"role": "user", "content": "Hello!"}]})
    assert len(rendered.token_ids) > 5
    assert not list(folder.glob("*.safetensors"))


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_the_packaged_model_becomes_a_model_that_answers(tmp_path):
    """The real conversion, after one that was killed half-way: tokenizer, chat template and weights work."""
    code = (
        "import pathlib, sys; from cluster.serve.model_files import ensure_demo_model; "
        "ensure_demo_model(pathlib.Path(sys.argv[1]), lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}
    ) as first:
        for line in first.stdout:
            if "step 2 of 4" in line:
                break
        first.send_signal(signal.SIGKILL)
    assert not (tmp_path / "models" / MODEL_NAME).exists()

    start = time.monotonic()
    folder = ensure_demo_model(tmp_path, lambda _: None)
    assert time.monotonic() - start > 1.0
    assert left_behind(tmp_path) == [MODEL_NAME]
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    answer = subprocess.run(
        [sys.executable, "-c", ASK, str(folder)], capture_output=True, text=True, check=True
    )
    assert "Paris" in answer.stdout


ASK = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
question = [{"role": "user", "content": "What is the capital of France?"}]
options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
prompt = tokenizer.apply_chat_template(question, **options)
answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
print(tokenizer.decode(answer[0][prompt["input_ids"].shape[1]:]))
"""
