"""Installs the clients whose tests run against a router: ``python -m tests.clients.install``.

Into a folder of their own (`WARMROUTE_CLIENTS`, else ``.warmroute/clients``), by pip and npm, in pinned
versions.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("WARMROUTE_CLIENTS") or HERE.parents[1] / ".warmroute" / "clients")
PYTHON = FOLDER / "venv" / "bin" / "python"
NODE_MODULES = FOLDER / "node_modules"
LOCKS = {PYTHON: HERE / "requirements.txt", NODE_MODULES: HERE / "node" / "package-lock.json"}


def is_installed(what: Path) -> bool:
    """Whether it is there, from the lock file as it is now."""
    copy = FOLDER / LOCKS[what].name
    return what.exists() and copy.exists() and copy.read_bytes() == LOCKS[what].read_bytes()


def main() -> None:
    """Install what is missing or outdated."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not is_installed(PYTHON):
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER / "venv"], check=True)
        pip = [PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--requirement"]
        subprocess.run([*pip, LOCKS[PYTHON]], check=True)
        shutil.copy(LOCKS[PYTHON], FOLDER)
    if not is_installed(NODE_MODULES):
        shutil.copy(HERE / "node" / "package.json", FOLDER)
        lock = shutil.copy(LOCKS[NODE_MODULES], FOLDER)
        try:
            subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=FOLDER, check=True
            )
        except BaseException:
            Path(lock).unlink()
            raise


if __name__ == "__main__":
    main()
