"""Settings from a file, how they are shown, and how commands find a `serve` that runs."""

import os

import pytest
from typer.testing import CliRunner

from cluster.cli import _found, app, main
from cluster.configuration import apply_file, settings_in_force
from cluster.errors import StartUpError
from cluster.operate.state_file import Serving, announced, find_serving, state_file
from cluster.settings import load_settings
from router.settings import RouterSettings


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch, tmp_path):
    """A state file of its own; what a file sets in the environment ends with the test."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ["XDG_STATE_HOME"] = str(tmp_path)


@pytest.fixture
def write(tmp_path):
    """Writes a file of settings."""

    def write(text):
        path = tmp_path / "warmroute.toml"
        path.write_text(text)
        return path

    return write


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(write, monkeypatch):
    """Settings have their own names and TOML's own types."""
    os.environ["WARMROUTE_PORT"] = "9001"
    apply_file(
        write(
            'port = 9000\nworkers = 2\nopen_metrics = true\nhide_cache_headers = ["a", "b"]\n'
            '[api_keys]\na = "one"\nb = "two"\n'
        )
    )
    given = {name.removeprefix("WARMROUTE_").lower(): value for name, value in os.environ.items()}
    settings = load_settings(
        RouterSettings, **{name: given[name] for name in ("port", "workers", "api_keys")}
    )
    assert (settings.port, settings.workers) == (9001, 2)
    assert settings.api_keys == {"a": ("one",), "b": ("two",)}
    assert given["open_metrics"] == "true"
    assert given["hide_cache_headers"] == "a,b"


@pytest.mark.parametrize(
    ("text", "said"), [("prot = 1", "no setting prot. Did you mean port?"), ("port = = 1", "line 1")]
)
def test_a_bad_file_is_named(write, text, said):
    """With the setting that may have been meant, or the line."""
    with pytest.raises(StartUpError, match=said):
        apply_file(write(text))


def test_what_config_prints_is_a_file_for_config(write, capsys):
    """Every setting once, with its meaning; secrets are not shown."""
    os.environ |= {"WARMROUTE_PORT": "9000", "WARMROUTE_ADMIN_TOKEN": "a-very-secret-token"}
    text = "\n".join(settings_in_force())
    assert 'port = "9000"' in text
    assert "# workers = 1" in text
    assert "secret-token" not in text
    apply_file(write(text))
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(write(text)), "config"])
    assert ended.value.code == 0


def test_commands_find_what_serves():
    """While it runs; what was left by one that died is no trace, and what is named wins."""
    assert find_serving() == Serving()
    serving = Serving(os.getpid(), "http://127.0.0.1:8123", "redis://127.0.0.1:7000", "t" * 16)
    with announced(serving):
        assert state_file().stat().st_mode & 0o777 == 0o600
        url, settings = _found(None, {})
        assert (url, settings.redis_url, settings.admin_token) == (
            serving.router_url, serving.redis_url, serving.admin_token,
        )  # fmt: skip
        url, settings = _found("http://other:1", {"redis_url": "redis://here"})
        assert (url, settings.redis_url, settings.admin_token) == ("http://other:1", "redis://here", "")
    assert not state_file().exists()
    state_file().write_text('{"pid": 999999999, "router_url": "http://gone"}')
    assert find_serving() == Serving()


@pytest.mark.parametrize("arguments", [["--version"], ["-h"], ["router", "-h"], ["status", "-h"]])
def test_version_and_short_help(arguments):
    """They answer at once, with exit code 0."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "warmroute" in result.output or "Usage" in result.output
