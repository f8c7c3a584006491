"""Mistakes of new users: each is answered in one line that names the remedy, before any work is done."""

import re
import time

import pytest
import structlog

from cluster import cli
from cluster.serve import model_files, redis_server

SECONDS = 2.0
"""Of this process's own work, in which an answer must be there."""
DEAD = "127.0.0.1:1"

MISTAKES = {
    "unknown command": (["ruoter"], "No such command 'ruoter'.*router"),
    "unknown option": (["router", "--polcy", "warm"], "No such option: --polcy.*--policy"),
    "option without a value": (["router", "--port"], "--port.*requires an argument"),
    "word for a number": (["router", "--port", "abc"], "'--port'.* valid integer"),
    "port too high": (["router", "--port", "70000"], "WARMROUTE_PORT:.*less than or equal to 65535"),
    "no workers": (["router", "--workers", "0"], "WARMROUTE_WORKERS:.*greater than or equal to 1"),
    "unknown policy": (["router", "--policy", "coin-toss"], "choose one of .*warm"),
    "tokenizer without a model": (["router", "--tokenizer", "directory"], "expected NAME=VALUE pairs"),
    "tokenizer that is not there": (["router", "--tokenizer", "m=/no/where"], "no directory /no/where"),
    "two words": (["router", "--deployment", "two words"], "letters, digits and . _ - are allowed"),
    "unknown log level": (["router", "--log-level", "loud"], "'debug', 'info', 'warning' or 'error'"),
    "short token": (["router", "--admin-token", "secret"], "at least 16 printable ASCII characters"),
    "Redis over HTTP": (["router", "--redis-url", "http://localhost:6379"], "bad Redis URL.*redis://"),
    "Redis without a scheme": (["router", "--redis-url", "localhost:6379"], "bad Redis URL.*redis://"),
    "agent's Redis without a scheme": (
        ["agent", "--engine-url", "http://h:1", "--redis-url", "localhost:6379"],
        "bad Redis URL.*redis://",
    ),
    "no engine": (["agent"], "Missing option '--engine-url'"),
    "engine without a scheme": (["agent", "--engine-url", "localhost:8001"], "such as http://localhost:8001"),
    "engine by a path": (["agent", "--engine-url", "/tmp/socket"], "expected a URL, such as http://"),
    "engine given twice": (
        ["agent", "--engine-url", "http://h:1", "--engine-url", "http://h:1", "--replica-id", "a"],
        "give one --replica-id per --engine-url",
    ),
    "engine that nobody else reaches": (
        ["agent", "--engine-url", "http://localhost:1", "--redis-url", "redis://far:6379"],
        "--advertise-url",
    ),
    "unknown engine": (["serve", "--engine", "tgi"], "'vllm' or 'sim'"),
    "no replicas": (["serve", "--replicas", "0"], "WARMROUTE_REPLICAS:.*greater than or equal to 1"),
    "model that is not there": (["serve", "--model", "/no/where"], "holds no model.*--model"),
    "cluster without Redis": (["serve", "--ray-address", "auto"], "--redis-url"),
    "serve with a bad Redis": (["serve", "--redis-url", "localhost:6379"], "bad Redis URL.*redis://"),
    "router without a scheme": (["status", "--router-url", "localhost:8000"], "http://localhost:8000"),
    "no router": (["status", "--router-url", f"http://{DEAD}"], "no router answers.*warmroute serve"),
    "top without a router": (["top", "--once", "--router-url", f"http://{DEAD}"], "no router answers"),
    "check without Redis": (["check", "--redis-url", f"redis://{DEAD}"], "Redis"),
    "no log": (["doctor"], "Missing argument 'LOG.jsonl'"),
    "log that is not there": (["doctor", "nofile.jsonl"], "cannot read nofile.jsonl: No such file"),
    "doctor for a model that is not there": (["doctor", __file__, "--model", "/no"], "--model /no"),
    "report in an unknown format": (["doctor", __file__, "--format", "pdf"], "'text', 'json' or 'html'"),
    "nothing to replay": (["replay"], "--trace FILE, or --workload"),
    "unknown workload": (["replay", "--workload", "chats"], "choose one of chat"),
    "trace that is not there": (["replay", "--trace", "nofile.jsonl"], "cannot read nofile.jsonl"),
    "unknown scenario": (["loadtest", "--scenario", "shop"], "support-bot"),
    "no configuration file": (["--config", "nofile.toml", "config"], "nofile.toml: No such file"),
    "configuration that is no TOML": (["--config", __file__, "config"], "--config .*line 1"),
}


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """No work can be done: nothing is converted, no server is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(model_files, "_run_conversion", pytest.fail)
    monkeypatch.setattr(redis_server, "start_redis", pytest.fail, raising=False)
    yield
    structlog.reset_defaults()


def answer_to(arguments, capsys):
    """Exit code, what was said, and how long this process worked for it."""
    started = time.process_time()
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    seconds = time.process_time() - started
    said = capsys.readouterr()
    return ended.value.code, said.err or said.out, seconds


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_one_line(name, capsys):
    """What is wrong, and what to do about it; exit code 1 or 2, no traceback, at once."""
    arguments, said = MISTAKES[name]
    answer_to([arguments[0], "--help"] if arguments[0][0] not in "-r" else ["--help"], capsys)  # imports
    code, error, seconds = answer_to(arguments, capsys)
    assert code in (1, 2)
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert re.search(said, lines[0]), lines[0]
    assert seconds < SECONDS
