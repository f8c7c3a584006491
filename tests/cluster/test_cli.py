"""The command line: what it offers, and how it says what is wrong."""

import io
import socket

import pytest
import structlog
from rich.console import Console
from typer.testing import CliRunner

from cluster.cli import app, main
from cluster.errors import ClusterError, StartUpError
from cluster.operate.status import replica_table
from policies.installed import InstalledPolicyError

COMMANDS = ("router", "agent", "status", "check", "replay", "top")


@pytest.fixture
def taken_port():
    """A port that somebody else listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """Commands set up logging on a standard error that ends with the test."""
    yield
    structlog.reset_defaults()


def run_main(arguments, capsys):
    """Exit code and standard error of the real entry point."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code, " ".join(capsys.readouterr().err.split())


def test_help_names_every_command():
    """A new user finds what there is."""
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(command in result.output for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    """Each command explains itself without connecting to anything."""
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (["router", "--port", "70000"], "WARMROUTE_PORT"),
        (["router", "--workers", "0"], "WARMROUTE_WORKERS"),
        (["router", "--policy", "coin-toss"], "WARMROUTE_POLICY"),
        (["router", "--tokenizer", "no-directory"], "WARMROUTE_TOKENIZERS"),
        (["router", "--deployment", "two words"], "WARMROUTE_DEPLOYMENT"),
        (["check", "--redis-url", ""], "WARMROUTE_REDIS_URL"),
    ],
)
def test_bad_setting_is_one_clear_message(arguments, variable, capsys):
    """The setting is named, the exit code is 2, and there is no traceback."""
    code, error = run_main(arguments, capsys)
    assert code == 2
    assert error.startswith("warmroute: bad settings:")
    assert variable in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("variable", "value"), [("WARMROUTE_WORKERS", "3"), ("WARMROUTE_MAX_BODY_BYTES", "x")]
)
def test_serve_says_at_once_what_its_router_would_not_take(variable, value, monkeypatch, capsys):
    """Before Redis, Ray and a model are there; several workers need `warmroute router`."""
    monkeypatch.setenv(variable, value)
    code, error = run_main(["serve"], capsys)
    assert code == 2
    assert variable in error
    assert "Traceback" not in error


def test_square_brackets_in_a_message_are_shown(capsys):
    """What a user typed comes back as typed, also where it looks like markup."""
    code, error = run_main(["router", "--policy", "[/red][bold]x"], capsys)
    assert code == 2
    assert "got '[/red][bold]x'" in error


def test_unknown_option_is_a_usage_error(capsys):
    """Typos end with exit code 2."""
    code, error = run_main(["router", "--prot", "1"], capsys)
    assert code == 2
    assert "--prot" in error


@pytest.mark.parametrize("workers", ["1", "4"])
def test_port_that_is_taken(capsys, taken_port, workers):
    """The message says which port and what to do, also before several processes are started."""
    code, error = run_main(["router", "--port", str(taken_port), "--workers", workers], capsys)
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{taken_port}" in error
    assert "--port" in error


def test_status_without_a_router(capsys):
    """Nobody there is said in one line."""
    code, error = run_main(["status", "--router-url", "http://127.0.0.1:1"], capsys)
    assert code == 2
    assert "no router answers at http://127.0.0.1:1" in error


def test_check_without_redis(capsys):
    """Redis away is an error, and not the exit code of bad settings."""
    code, error = run_main(["check", "--redis-url", "redis://127.0.0.1:1/0"], capsys)
    assert code == 1
    assert "Redis" in error


@pytest.mark.parametrize(
    ("error", "code"),
    [(StartUpError("no"), 2), (InstalledPolicyError("no"), 2), (ClusterError("no"), 1)],
)
def test_our_errors_are_messages(monkeypatch, capsys, error, code):
    """Every error of this package ends in a message and an exit code."""

    def fail(_arguments, **_):
        raise error

    monkeypatch.setattr("cluster.cli.app", fail)
    assert run_main([], capsys) == (code, "warmroute: no")


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch, capsys):
    """With the exit code that shells expect."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster.operate.status.fetch_replicas", interrupted)
    assert run_main(["status"], capsys) == (130, "")


def test_without_a_command_there_is_help(capsys):
    """And an exit code that says that nothing was done."""
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code in (0, 2)
    assert "router" in capsys.readouterr().out


def test_table_of_replicas_shows_alarms_as_they_are():
    """Every replica has a row; text from elsewhere is not taken for markup."""
    replica = {
        "replica": "gpu-1",
        "model": "m",
        "state": "ready",
        "alarms": ["differs [bold] [/x]"],
        "load": {"booked": 1, "running": 2, "waiting": 3},
        "owned_blocks": 10,
        "capacity_blocks": 20,
        "evicted_blocks": 0,
        "requests": 4,
        "hit_rate": 0.5,
    }
    console = Console(width=200, file=io.StringIO())
    console.print(replica_table({"replicas": [replica], "ready": 1, "redis_reachable": True}))
    text = console.file.getvalue()
    assert "1 of 1 replicas ready, Redis reachable" in text
    for shown in ("gpu-1", "10/20", "50.0%", "differs [bold] [/x]"):
        assert shown in text
