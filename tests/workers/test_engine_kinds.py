"""Kinds of engines: what CONTRIBUTING.md says of adding one, done."""

import sys
import typing
from pathlib import Path

import aiohttp
import pytest

from cluster.serve.serve_settings import ServeSettings
from workers.engines.commands import COMMANDS, EngineOptions
from workers.engines.supervisor import EngineCommand, EngineProcess
from workers.replica import ReplicaOptions, free_port
from workers.settings import WorkerSettings

TINY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(sys.argv[2].encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def tiny_command(
    options: EngineOptions, host: str, port: int, _sockets: Path, _api_key: str
) -> EngineCommand:
    """The command line of another kind of engine."""
    arguments = [sys.executable, "-c", TINY, str(port), options.served_model_name]
    return EngineCommand(arguments, {}, f"http://{host}:{port}")


def test_every_kind_can_be_served() -> None:
    """The command line of ``warmroute serve`` has the names that replicas know."""
    assert set(typing.get_args(ServeSettings.model_fields["engine"].annotation)) == set(COMMANDS)


@pytest.mark.integration
async def test_another_kind_is_a_command_and_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function in the table is all that a replica needs to start it and to see that it is healthy."""
    monkeypatch.setitem(typing.cast(dict[str, object], COMMANDS), "tiny", tiny_command)
    options = ReplicaOptions("tiny", EngineOptions("m", served_model_name="m"), WorkerSettings())
    command = options.command("127.0.0.1", free_port("127.0.0.1"), tmp_path)
    engine = EngineProcess(command, options.settings, tmp_path / "log")
    await engine.start()
    try:
        async with aiohttp.request("GET", f"{command.url}/v1/models") as response:
            assert await response.text() == "m"
    finally:
        await engine.stop()
        options.log_directory.rmdir()
