"""The benchmark as people call it."""

import subprocess
import sys

import pytest

from tests.tiny_model import build_tiny_model

pytestmark = pytest.mark.integration

BENCH = (sys.executable, "-m", "loadtest.bench")


@pytest.mark.timeout(180)
def test_the_table_shows_what_a_router_costs(tmp_path):
    """A real router with Redis and exact token routing is measured, and nothing keeps running."""
    model = build_tiny_model(tmp_path / "model")
    options = [
        "--only",
        "json,messages,responses",
        "--routers",
        "warmroute",
        "--rounds",
        "1",
        "--seconds",
        "1",
        "--model",
        model,
    ]
    done = subprocess.run([*BENCH, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for what in ("JSON request", "message", "response"):
        assert f"CPU per {what}, us" in done.stdout
    assert "warmroute" in done.stdout


@pytest.mark.parametrize(
    ("option", "name", "known"), [("--only", "jason", "json"), ("--routers", "nginx", "warmroute")]
)
def test_unknown_names_are_refused(option, name, known, tmp_path):
    """A name with a typing error ends the command with the names there are."""
    model = build_tiny_model(tmp_path / "model")
    done = subprocess.run([*BENCH, option, name, "--model", model], capture_output=True, text=True)
    assert done.returncode == 1
    assert name in done.stderr
    assert known in done.stderr
