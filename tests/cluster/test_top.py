"""``warmroute top``: how it asks a router, and what it does when it cannot."""

import asyncio
import io
import os
import pty
import select
import sys
import time

import aiohttp
import pytest
from aiohttp import web
from rich.console import Console
from typer.testing import CliRunner

from cluster.cli import app
from cluster.operate.top import Top, show_once
from tests.cluster.overviews import overview, trends

TOKEN = "right"


def terminal(width=80, height=40):
    """A terminal that nobody sees."""
    return Console(width=width, height=height, record=True, file=io.StringIO())


class FakeRouter:
    """Answers like a router's admin API, as well as it is told to."""

    def __init__(self, token=""):
        self.token, self.overview = token, overview()
        self.asked = []

    async def answer(self, request):
        """One request."""
        self.asked.append(request.path)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": {"message": "no"}}, status=401)
        if callable(self.overview):
            return self.overview()
        return web.json_response(self.overview if request.path == "/admin/overview" else trends())


@pytest.fixture
async def serve():
    """Serves a fake router; gives its URL and what ends it."""
    runners = []

    async def start(router, port=0):
        application = web.Application()
        application.router.add_get("/{path:.*}", router.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}", runner.cleanup

    yield start
    for runner in runners:
        await runner.cleanup()


async def once(url, token=""):
    """Whether one overview could be had, and what was printed."""
    console = terminal(100)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    succeeded = await show_once(url, headers, console)
    return succeeded, " ".join(console.export_text().split())


async def test_one_frame(serve):
    """The overview with its trends, asked for with the token."""
    router = FakeRouter(TOKEN)
    url, _ = await serve(router)
    succeeded, text = await once(url + "/", TOKEN)
    assert succeeded
    assert "8 of 8 ready" in text
    assert "last 10 min" in text
    assert router.asked == ["/admin/overview", "/admin/trends"]


@pytest.mark.parametrize(("token", "says"), [("", "wants a token"), ("wrong", "does not accept this token")])
async def test_a_token_is_asked_for(serve, token, says):
    """Whether none was given or a wrong one, and how to give it."""
    url, _ = await serve(FakeRouter(TOKEN))
    succeeded, text = await once(url, token)
    assert not succeeded
    assert says in text
    assert "WARMROUTE_ADMIN_TOKEN" in text


REFUSED = {"error": {"message": "The admin API is closed."}}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda: web.json_response(REFUSED, status=403), "answers 403: The admin API is closed."),
        (lambda: web.Response(text="gone", status=404), "answers 404: it is no router"),
        (lambda: web.Response(text="<html>"), "is no router"),
        (lambda: web.Response(text="nonsense", content_type="application/json"), "is no router"),
        (lambda: web.json_response({"replicas": []}), "of another version"),
        (lambda: web.json_response([]), "of another version"),
    ],
)
async def test_other_answers_are_explained(serve, answer, says):
    """In one line, and not with a traceback."""
    router = FakeRouter()
    router.overview = answer
    url, _ = await serve(router)
    succeeded, text = await once(url)
    assert not succeeded
    assert says in text


async def test_a_router_that_goes_and_comes_back(serve):
    """Meanwhile the last overview stays under the reason; then it goes on."""
    url, end = await serve(FakeRouter())
    console = terminal()

    def shown():
        with console.capture() as captured:
            console.print(top.view(console, 40))
        return " ".join(captured.get().split())

    async with aiohttp.ClientSession() as session:
        top = Top(session, url, {})
        await top.refresh()
        assert not top.problem
        await end()
        await top.refresh()
        assert "no router answers" in shown()
        assert "8 of 8 ready" in shown()
        await serve(FakeRouter(), int(url.rpartition(":")[2]))
        await top.refresh()
        assert "no router answers" not in shown()


def test_once_without_a_router_fails():
    """So that scripts can tell; the reason is printed."""
    result = CliRunner().invoke(app, ["top", "--once", "--router-url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "no router answers" in " ".join(result.output.split())


@pytest.mark.integration
async def test_the_command_lives_until_q(serve):
    """In a real terminal: the overview on the alternate screen, renewed, until q puts the terminal back."""
    router = FakeRouter()
    url, _ = await serve(router)
    keyboard, screen = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cluster.cli", "top", "--router-url", url),
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env={**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm"},
    )
    os.close(screen)
    try:
        seen = await output(
            keyboard, lambda text: router.asked.count("/admin/overview") >= 3 and "ready" in text
        )
        assert "\x1b[?1049h" in seen
        os.write(keyboard, b"q")
        seen = await output(keyboard, lambda text: process.returncode is not None)
        assert "\x1b[?1049l" in seen
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(keyboard)


async def output(keyboard, accepted):
    """What a terminal shows until then, at most for 20 s."""
    seen, until = "", time.monotonic() + 20
    while not accepted(seen):
        assert time.monotonic() < until, seen
        await asyncio.sleep(0.02)
        while select.select([keyboard], [], [], 0)[0]:
            try:
                seen += os.read(keyboard, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
    return seen
