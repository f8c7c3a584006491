"""Every command that README and docs show in a block of code exists, with the options that it is given."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:\.venv/bin/)?(warmroute|make|locust|python) ")
ASSIGNMENT = re.compile(r"\s*(?:[A-Z_]+=(?:'[^']*'|\S*)\s+|chrt -f 1\s+)*")


def documented(program):
    """Where a command of this program is shown, and its arguments."""
    found = {}
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("infra/**/*.md")]:
        for block in BLOCK.findall(path.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                line = line[ASSIGNMENT.match(line).end() :]
                if (command := COMMAND.match(line)) and command[1] == program:
                    words = shlex.split(re.sub(r"\[(--[^]]*)\]", r"\1", line), comments=True)[1:]
                    found[f"{path.name}: {' '.join(words)[:80]}"] = words
    assert found
    return [pytest.param(words, id=name) for name, words in sorted(found.items())]


@pytest.mark.parametrize("words", documented("warmroute"))
def test_warmroute_has_these_options(words):
    """Unknown commands and options are refused before ``--help`` is looked at."""
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output


def test_unknown_options_would_be_noticed():
    """The check above can fail: for a command, for an option of a command whose options are read late."""
    for words in (["nonsense"], ["status", "--nonsense"], ["loadtest", "--url", "http://x:1"]):
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code != 0


@pytest.mark.parametrize("words", documented("python"))
def test_modules_exist(words):
    """``python -m MODULE``, and scripts, are in the repository."""
    if words[0] == "-m":
        assert find_spec(words[1]) is not None
    else:
        assert (ROOT / words[0]).is_file()


@pytest.mark.parametrize("words", documented("make"))
def test_targets_exist(words):
    """``make TARGET`` is in the Makefile."""
    assert re.search(rf"^{re.escape(words[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


LIST_FLAGS = """
from locust.argument_parser import get_parser
from loadtest.users.options import add_options
parser = get_parser()
add_options(parser)
print(*(flag for action in parser._actions for flag in action.option_strings))
"""


def test_locust_has_these_options():
    """Its own, and those of our locustfile. (In a process of its own, since Locust changes the sockets.)"""
    known = subprocess.run(
        [sys.executable, "-c", LIST_FLAGS], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    ).stdout.split()
    for case in documented("locust"):
        flags = {word for word in case.values[0] if re.match("--?[a-z]", word)}
        assert flags <= set(known), case.id
